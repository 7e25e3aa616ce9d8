#include "nvme/block_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "nvme/block_device.h"
#include "nvme/format.h"
#include "nvme/transfer.h"
#include "runtime/arena.h"

namespace strata {
namespace {

constexpr std::size_t kPrewriteBytes = std::size_t{4} << 20;

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedBytes = std::unique_ptr<std::byte[], FreeDeleter>;

AlignedBytes zeroed_blocks(std::size_t bytes) {
  void* memory = std::aligned_alloc(format::kBlockBytes, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return AlignedBytes(static_cast<std::byte*>(memory));
}

std::string error_text(int error) { return std::generic_category().message(error); }

// Bytes this user may still write to the file system that holds `fd`; none where it has no limit or does not say.
std::optional<std::uint64_t> free_bytes(int fd) {
  struct statvfs fs {};
  if (::fstatvfs(fd, &fs) != 0 || fs.f_blocks == 0) return std::nullopt;
  return static_cast<std::uint64_t>(::geteuid() == 0 ? fs.f_bfree : fs.f_bavail) * fs.f_frsize;
}

// FUSE claims to be ready at any time and then lets the caller wait, where the file system's process takes no asynchronous I/O.
bool blocks_submission(int fd) {
  struct statfs fs {};
  return ::fstatfs(fd, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

// Alignment that direct I/O on the file demands; 0 where the file has no direct I/O.
std::size_t direct_alignment([[maybe_unused]] int fd) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0) {
    return std::max<std::size_t>(info.stx_dio_mem_align, info.stx_dio_offset_align);
  }
#endif
  return format::kBlockBytes;  // older kernels do not say; the sector size of every common device divides this
}

void close_file(IoFile* file) {
  if (file->fd >= 0) ::close(file->fd);
  delete file;
}

}  // namespace

void BlockFile::swap(BlockFile& other) noexcept {
  std::swap(io_, other.io_);
  std::swap(bytes_, other.bytes_);
  std::swap(alignment_, other.alignment_);
  std::swap(max_transfer_, other.max_transfer_);
  std::swap(direct_, other.direct_);
  std::swap(why_buffered_, other.why_buffered_);
}

Status BlockFile::open_locked(const BlockFileOptions& options, Progress& progress) {
  const auto deadline = std::chrono::steady_clock::now() + options.lock_wait;
  do {
    STRATA_RETURN_IF_ERROR(open_descriptor(options.direct));
    STRATA_RETURN_IF_ERROR(lock(deadline, progress));
  } while (!has_its_name());  // whoever held the lock has removed the file meanwhile
  return describe();
}

Status BlockFile::open_descriptor(bool direct) {
  if (fd() >= 0) ::close(fd());
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
  io_->fd = ::open(path().c_str(), direct ? kFlags | O_DIRECT : kFlags, 0644);
  direct_ = direct && fd() >= 0;
  if (fd() < 0 && direct && (errno == EINVAL || errno == EOPNOTSUPP)) {
    why_buffered_ = "the file system has no direct I/O";
    io_->fd = ::open(path().c_str(), kFlags, 0644);
  }
  return fd() >= 0 ? Status() : Status::from_errno("open", path(), errno);
}

bool BlockFile::has_its_name() const {
  struct stat mine {
  }, named{};
  if (::stat(path().c_str(), &named) != 0) return errno != ENOENT;
  return ::fstat(fd(), &mine) != 0 || (mine.st_dev == named.st_dev && mine.st_ino == named.st_ino);
}

Status BlockFile::lock(std::chrono::steady_clock::time_point deadline, Progress& progress) const {
  // Any other error is a file system without locks: then nothing is promised.
  while (::flock(fd(), LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return {Code::io_error, path() + ": another process uses this file; give every run its own nvme.path"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ++progress;
  }
  return {};
}

Status BlockFile::describe() {
  struct stat info {};
  if (::fstat(fd(), &info) != 0) return Status::from_errno("stat", path(), errno);
  if (!S_ISREG(info.st_mode)) return {Code::unsupported, path() + ": not a regular file"};
  max_transfer_ = device_queue_number(info.st_dev, "max_sectors_kb").value_or(0) * 1024;
  io_->blocks_submission = blocks_submission(fd());
  if (!direct_) return {};
  const std::size_t alignment = direct_alignment(fd());
  if (alignment == 0) {
    fall_back_to_buffered("the file system has no direct I/O for it");
  } else if (format::kBlockBytes % alignment != 0) {
    fall_back_to_buffered("direct I/O demands an alignment of " + std::to_string(alignment) +
                          " bytes, more than the format's " + std::to_string(format::kBlockBytes));
  } else {
    alignment_ = alignment;
  }
  return {};
}

void BlockFile::fall_back_to_buffered(const std::string& why) {
  const int flags = ::fcntl(fd(), F_GETFL);
  ::fcntl(fd(), F_SETFL, flags & ~O_DIRECT);
  direct_ = false;
  alignment_ = 1;
  why_buffered_ = why;
}

// Some file systems accept the flag and refuse the first transfer. What is written is zero like the rest of the file.
Status BlockFile::probe_direct() {
  if (!direct_) return {};
  const AlignedBytes block = zeroed_blocks(format::kBlockBytes);
  const auto transfer = [&](bool write) {
    return write ? ::pwrite(fd(), block.get(), format::kBlockBytes, 0) : ::pread(fd(), block.get(), format::kBlockBytes, 0);
  };
  for (const bool write : {false, true}) {
    ssize_t moved = 0;
    do {
      moved = transfer(write);
    } while (moved < 0 && errno == EINTR);
    if (moved >= 0) continue;
    const std::string what = write ? "direct write" : "direct read";
    if (errno != EINVAL && errno != EOPNOTSUPP) return error_of("first " + what + " at offset 0", bytes_, errno);
    fall_back_to_buffered("the file system refused a " + what + ": " + error_text(errno));
    return {};
  }
  return {};
}

// Of `operation` while a file of `bytes` was made: only some errors say that there is no room.
Status BlockFile::error_of(const std::string& operation, std::uint64_t bytes, int error) const {
  const bool no_room = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return no_room ? space_error(bytes, error) : Status::from_errno(operation, path(), error);
}

Status BlockFile::space_error(std::uint64_t bytes, int error) const {
  std::string text = path() + ": cannot allocate " + format_bytes(bytes) + " (" + std::to_string(bytes) + " bytes)";
  if (const auto left = free_bytes(fd()); left) {
    text += ", free are " + format_bytes(*left) + " (" + std::to_string(*left) + " bytes)";
  }
  return {Code::io_error, text + ": " + error_text(error) + "; make room or put nvme.path on a larger file system"};
}

Status BlockFile::require_space(std::uint64_t bytes) const {
  struct rlimit limit {};
  // Checked here because exceeding it kills the process by SIGXFSZ.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) {
    return {Code::io_error, path() + ": needs " + std::to_string(bytes) +
                                " bytes, but this process may write files of at most " + std::to_string(limit.rlim_cur) +
                                " (ulimit -f): " + error_text(EFBIG)};
  }
  const auto left = free_bytes(fd());
  if (left && bytes > *left) return space_error(bytes, ENOSPC);
  return {};
}

Status BlockFile::allocate(std::uint64_t bytes, bool prewrite_all, Progress& progress) {
  if (::ftruncate(fd(), 0) != 0) return Status::from_errno("truncate", path(), errno);
  STRATA_RETURN_IF_ERROR(require_space(bytes));
  if (bytes == 0) return {};
  int error = 0;
  do {
    error = ::fallocate(fd(), 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  } while (error == EINTR);
  const bool can_reserve = error != EOPNOTSUPP && error != ENOSYS;
  if (error != 0 && can_reserve) return error_of("allocate " + format_bytes(bytes), bytes, error);
  if (!can_reserve && ::ftruncate(fd(), static_cast<off_t>(bytes)) != 0) {
    return error_of("extend to " + format_bytes(bytes), bytes, errno);
  }
  bytes_ = bytes;
  STRATA_RETURN_IF_ERROR(probe_direct());
  // Where space cannot be reserved, only writing it proves that it is there.
  return prewrite_all || !can_reserve ? prewrite(bytes, progress) : Status();
}

Status BlockFile::prewrite(std::uint64_t bytes, Progress& progress) const {
  const AlignedBytes zeros = zeroed_blocks(kPrewriteBytes);
  for (std::uint64_t at = 0; at < bytes;) {
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(kPrewriteBytes, bytes - at));
    const ssize_t written = ::pwrite(fd(), zeros.get(), piece, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return error_of(strata::describe(IoRequest::Kind::write, piece, at), bytes, errno);
    const std::uint64_t reached = at + static_cast<std::uint64_t>(written);
    // A short write ends where direct I/O cannot go on, so its last part of a block is written again.
    const std::uint64_t next = reached == bytes ? bytes : reached / format::kBlockBytes * format::kBlockBytes;
    if (next <= at) return space_error(bytes, ENOSPC);
    at = next;
    ++progress;
  }
  return {};
}

Result<BlockFile> BlockFile::make(const std::string& path, std::uint64_t bytes, const BlockFileOptions& options,
                                  Progress& progress) {
  BlockFile file;
  file.io_ = std::shared_ptr<IoFile>(new IoFile, close_file);
  file.io_->path = path;
  STRATA_RETURN_IF_ERROR(file.open_locked(options, progress));
  if (const Status status = file.allocate(bytes, options.prewrite, progress); !status.ok()) {
    file.remove();
    return status;
  }
  return file;
}

Result<BlockFile> BlockFile::create(const std::string& path, std::uint64_t bytes, const BlockFileOptions& options) {
  STRATA_CHECK(bytes % format::kBlockBytes == 0, "files are made of whole blocks");
  const auto progress = std::make_shared<Progress>(0);
  std::packaged_task<Result<BlockFile>()> task([=] { return make(path, bytes, options, *progress); });
  std::future<Result<BlockFile>> made = task.get_future();
  try {
    std::thread(std::move(task)).detach();
  } catch (const std::system_error&) {
    return make(path, bytes, options, *progress);  // no more threads to be had: nobody watches the time
  }
  Silence silence(options.timeout);
  for (std::uint64_t seen = 0;;) {
    const auto begin = std::chrono::steady_clock::now();
    if (made.wait_for(silence.part()) == std::future_status::ready) return made.get();
    const std::uint64_t before = std::exchange(seen, progress->load());
    if (seen != before) silence.heard();
    if (seen == before && silence.add(std::chrono::steady_clock::now() - begin)) break;
  }
  return Status(Code::io_error,
                path + ": while a file of " + format_bytes(bytes) + " was made: " + describe_silence(options.timeout));
}

void BlockFile::remove() {
  (void)!::ftruncate(fd(), 0);
  ::unlink(path().c_str());
}

}  // namespace strata
