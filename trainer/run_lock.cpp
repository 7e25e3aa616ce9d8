#include "trainer/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <thread>
#include <utility>

namespace strata {
namespace {

std::string holder_of(int fd) {
  std::array<char, 24> text{};
  const ssize_t n = ::pread(fd, text.data(), text.size() - 1, 0);
  return n > 0 ? "process " + std::string(text.data(), static_cast<std::size_t>(n)) : std::string("another process");
}

// Who it is, for the message that another run prints; the lock does not depend on it.
void write_holder(int fd) {
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd, 0) == 0) (void)!::pwrite(fd, pid.data(), pid.size(), 0);
}

}  // namespace

Result<RunLock> RunLock::take(const std::string& folder, std::chrono::milliseconds wait) {
  const std::string path = folder + "/.lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return Status::from_errno("open", path, errno);
  RunLock lock(fd);
  const auto deadline = std::chrono::steady_clock::now() + wait;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
    if (std::chrono::steady_clock::now() >= deadline)
      return Status(Code::io_error,
                    folder + " is in use: " + holder_of(fd) + " trains there; wait for it, or set another run.folder");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  write_holder(fd);
  return lock;
}

RunLock::~RunLock() {
  if (fd_ >= 0) ::close(fd_);
}
RunLock::RunLock(RunLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
RunLock& RunLock::operator=(RunLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

}  // namespace strata
