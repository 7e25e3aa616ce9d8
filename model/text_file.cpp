#include "model/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace strata {
namespace {

constexpr std::size_t kLimit = std::size_t{256} << 20;

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }
  int close() { return ::close(std::exchange(fd_, -1)); }
  bool is_regular() const {
    struct stat info {};
    return ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
  }

 private:
  int fd_;
};

Status write_all(int fd, const std::string& text, const std::string& path) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Status::from_errno("write of " + std::to_string(text.size()) + " bytes", path, n < 0 ? errno : ENOSPC);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace

Result<std::string> read_text_file(const std::string& path) {
  const File file(path, O_RDONLY);
  if (file.fd() < 0) {
    const int error = errno;
    const Status status = Status::from_errno("open", path, error);
    return error == ENOENT ? Status(Code::not_found, status.message()) : status;
  }
  std::string text;
  std::string piece(std::size_t{1} << 16, '\0');
  while (true) {
    const ssize_t n = ::read(file.fd(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::from_errno("read", path, errno);
    if (n == 0) return text;
    text.append(piece, 0, static_cast<std::size_t>(n));
    if (text.size() > kLimit) return Status(Code::corrupt, path + ": larger than 256 MiB, which this kind of file never is");
  }
}

Status write_text_file(const std::string& path, const std::string& text, bool fsync) {
  File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (file.fd() < 0) return Status::from_errno("create", path, errno);
  const bool regular = file.is_regular();  // never remove a device or a pipe
  Status status = write_all(file.fd(), text, path);
  if (status.ok() && fsync && ::fsync(file.fd()) != 0) status = Status::from_errno("fsync", path, errno);
  if (file.close() != 0 && status.ok()) status = Status::from_errno("close", path, errno);
  if (!status.ok() && regular) ::unlink(path.c_str());
  return status;
}

Status flush_to_device(const std::string& path) {
  const File file(path, O_RDONLY);
  if (file.fd() < 0) return Status::from_errno("open", path, errno);
  int error = 0;
  do {
    error = ::fsync(file.fd()) == 0 ? 0 : errno;
  } while (error == EINTR);
  // Some network file systems flush folders by themselves and refuse to be asked.
  if (error == EINVAL && !file.is_regular()) error = 0;
  return error == 0 ? Status() : Status::from_errno("fsync", path, error);
}

}  // namespace strata
