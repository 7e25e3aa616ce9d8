#include "nvme/turn_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "nvme/transfer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t kInUse = 0;  // shared by all who have the file open, exclusive for who removes it
constexpr auto kRemovalTakes = 5s;
// A turn is asked for again after a 32nd of the time waited so far: nothing beside the turn before, and no busy processor.
constexpr int kPauses = 32;
constexpr std::chrono::nanoseconds kShortestPause = 20us, kLongestPause = 1ms;

// Next in line holds the gate.
std::size_t gate_of(IoRequest::Kind way) { return way == IoRequest::Kind::read ? 1 : 3; }
std::size_t turn_of(IoRequest::Kind way) { return gate_of(way) + 1; }

// errno; 0: done. type: F_RDLCK, F_WRLCK, F_UNLCK.
int lock_byte(int fd, std::size_t byte, short type) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(byte);
  range.l_len = 1;
  int result = 0;
  do {
    result = ::fcntl(fd, F_OFD_SETLK, &range);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

bool held_by_others(int error) { return error == EAGAIN || error == EACCES; }

// Descriptor and identity of the file of this name; the caller closes it.
struct Opened {
  int fd = -1;
  TurnFile::Identity identity;
};
Result<Opened> open_file(const std::string& path, int more_flags) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | more_flags, 0644);
  if (fd < 0) return Status::from_errno("open", path, errno);
  struct stat info {};
  const int error = ::fstat(fd, &info) == 0 ? 0 : errno;
  const bool ours = error == 0 && S_ISREG(info.st_mode) && info.st_size == 0;
  if (ours) return Opened{fd, {info.st_dev, info.st_ino}};
  ::close(fd);
  if (error != 0) return Status::from_errno("stat", path, error);
  return Status(Code::unsupported, path + ": is in the way of an empty file of this name; remove it");
}

bool has_name(const TurnFile::Identity& identity, const std::string& path) {
  struct stat named {};
  if (::stat(path.c_str(), &named) != 0) return errno != ENOENT;
  return identity == TurnFile::Identity{named.st_dev, named.st_ino};
}

// Nobody else can begin to use a file that is removed: they look whether it has its name when they have locked it.
Status remove_unless_used(int fd, const TurnFile::Identity& identity, const std::string& path) {
  if (lock_byte(fd, kInUse, F_WRLCK) != 0 || !has_name(identity, path)) return {};
  return ::unlink(path.c_str()) == 0 || errno == ENOENT ? Status() : Status::from_errno("remove", path, errno);
}

// By the lists of locks that the kernel shows for descriptors of this user's processes; locks of this kind name no process.
std::optional<pid_t> holder_of(std::size_t byte, ino_t inode) {
  const std::string at = std::to_string(byte);
  const std::string ending = ":" + std::to_string(inode) + " " + at + " " + at;
  std::error_code error, unreadable;
  for (fs::directory_iterator process("/proc", error); !error && process != fs::directory_iterator();
       process.increment(error)) {
    const std::string name = process->path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    fs::directory_iterator entry(process->path() / "fdinfo", unreadable);
    for (; !unreadable && entry != fs::directory_iterator(); entry.increment(unreadable)) {
      std::ifstream info(entry->path());
      for (std::string line; std::getline(info, line);) {
        if (line.starts_with("lock:") && line.find(" OFDLCK ") != std::string::npos && line.ends_with(ending))
          return static_cast<pid_t>(std::stol(name));
      }
    }
  }
  return std::nullopt;
}

}  // namespace

Result<std::unique_ptr<TurnFile>> TurnFile::open(const std::string& folder) {
  const std::string path = (fs::path(folder) / kName).string();
  const auto deadline = std::chrono::steady_clock::now() + kRemovalTakes;
  for (;;) {
    STRATA_ASSIGN_OR_RETURN(const Opened opened, open_file(path, O_CREAT));
    const int error = lock_byte(opened.fd, kInUse, F_RDLCK);
    if (error == 0 && has_name(opened.identity, path))
      return std::unique_ptr<TurnFile>(new TurnFile(path, opened.fd, opened.identity));
    ::close(opened.fd);
    if (error != 0 && !held_by_others(error)) return Status::from_errno("lock", path, error);
    if (std::chrono::steady_clock::now() >= deadline)
      return Status(Code::io_error, path + ": another process keeps removing or locking this file");
    std::this_thread::sleep_for(1ms);  // somebody is removing it
  }
}

TurnFile::~TurnFile() {
  // Given up first: of several that leave at once, the last one is alone then.
  (void)lock_byte(fd_, kInUse, F_UNLCK);
  if (!leaves_file_) (void)remove_unless_used(fd_, identity_, path_);
  ::close(fd_);
}

Result<bool> TurnFile::try_lock(Byte byte) {
  if (mine_[byte].exchange(true)) return false;
  const int error = lock_byte(fd_, byte, F_WRLCK);
  if (error == 0) return true;
  mine_[byte] = false;
  if (held_by_others(error)) return false;
  return Status::from_errno("lock", path_, error);
}

void TurnFile::unlock(Byte byte) {
  (void)lock_byte(fd_, byte, F_UNLCK);
  mine_[byte] = false;
}

Status TurnFile::wait_for(Byte byte, IoRequest::Kind way, std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  Silence silence(limit);
  const auto begin = Clock::now();
  for (auto now = begin;;) {
    STRATA_ASSIGN_OR_RETURN(const bool locked, try_lock(byte));
    if (locked) return {};
    const auto pause = std::clamp<std::chrono::nanoseconds>((now - begin) / kPauses, kShortestPause, kLongestPause);
    std::this_thread::sleep_for(pause);
    const auto before = std::exchange(now, Clock::now());
    if (silence.add(now - before)) return too_long(way, limit);
  }
}

Status TurnFile::take(IoRequest::Kind way, std::chrono::milliseconds limit) {
  STRATA_RETURN_IF_ERROR(wait_for(gate_of(way), way, limit));
  Status status = wait_for(turn_of(way), way, limit);
  unlock(gate_of(way));
  return status;
}

void TurnFile::give_back(IoRequest::Kind way) { unlock(turn_of(way)); }

Status TurnFile::too_long(IoRequest::Kind way, std::chrono::milliseconds limit) const {
  const std::optional<pid_t> holder = holder_of(turn_of(way), identity_.inode);
  const std::string who = !holder                 ? "another process"
                          : *holder == ::getpid() ? "this process"
                                                  : "process " + std::to_string(*holder);
  return {Code::io_error, path_ + ": waited " + std::to_string(limit.count()) + " ms for the turn to " +
                              (way == IoRequest::Kind::read ? "read" : "write") + ", which " + who +
                              " has: it is stopped, or its drive hangs; continue or end it, or set nvme.exclusive: off"};
}

Status TurnFile::remove_stale(const std::string& folder) {
  const std::string path = (fs::path(folder) / kName).string();
  std::error_code ignored;
  if (!fs::is_regular_file(fs::symlink_status(path, ignored)) || fs::file_size(path, ignored) != 0) return {};  // not ours
  Result<Opened> opened = open_file(path, 0);
  if (!opened.ok()) return fs::exists(path, ignored) ? opened.status() : Status();
  Status status = remove_unless_used(opened->fd, opened->identity, path);
  ::close(opened->fd);
  return status;
}

}  // namespace strata
