#include "trainer/data/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

namespace strata {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

// True when `path` still names the file behind `fd`: another process may have renamed it between our open and our lock.
bool names_file(const std::string& path, int fd) {
  struct stat by_fd {};
  struct stat by_path {};
  return ::fstat(fd, &by_fd) == 0 && ::stat(path.c_str(), &by_path) == 0 && by_fd.st_ino == by_path.st_ino &&
         by_fd.st_dev == by_path.st_dev;
}

Status sync_folder_of(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Status::from_errno("open", folder, errno);
  // Some network file systems cannot flush a folder; the rename is still atomic there.
  const int error = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (error != 0 && error != EINVAL) return Status::from_errno("fsync", folder, error);
  return {};
}

}  // namespace

Result<std::unique_ptr<OutputFile>> OutputFile::create(const std::string& path) {
  const std::string partial = path + ".partial";
  for (;;) {
    const int fd = ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return Status::from_errno("creation", partial, errno);
    const int error = ::flock(fd, LOCK_EX | LOCK_NB) != 0 ? errno : 0;
    if (error == EWOULDBLOCK) {
      ::close(fd);
      return Status(Code::io_error, partial + ": another process is writing this file");
    }
    if (error == 0 && !names_file(partial, fd)) {
      ::close(fd);
      continue;
    }
    if (::ftruncate(fd, 0) != 0) {  // a file system without locks is used without them
      const int truncate_error = errno;
      ::close(fd);
      return Status::from_errno("truncation", partial, truncate_error);
    }
    return std::unique_ptr<OutputFile>(new OutputFile(path, fd));
  }
}

OutputFile::~OutputFile() {
  if (!committed_) ::unlink(partial().c_str());
  ::close(fd_);
}

Status OutputFile::write(std::span<const std::byte> bytes) {
  STRATA_CHECK(!finished_, "nothing may be written after finish");
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  return buffer_.size() >= kBufferBytes ? flush() : Status();
}

Status OutputFile::flush() {
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Status::from_errno(
          "write of " + std::to_string(buffer_.size() - done) + " bytes at " + std::to_string(written_ + done), partial(),
          errno);
    }
    done += static_cast<std::size_t>(n);
  }
  written_ += done;
  buffer_.clear();
  return {};
}

Status OutputFile::finish() {
  STRATA_RETURN_IF_ERROR(flush());
  if (::fsync(fd_) != 0) return Status::from_errno("fsync", partial(), errno);
  finished_ = true;
  return {};
}

Status OutputFile::commit() {
  STRATA_CHECK(finished_ && !committed_, "commit follows finish, once");
  if (::rename(partial().c_str(), path_.c_str()) != 0) return Status::from_errno("rename of " + partial(), path_, errno);
  committed_ = true;
  return sync_folder_of(path_);
}

}  // namespace strata
