#include "trainer/data/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace strata {

Result<std::shared_ptr<const InputFile>> InputFile::open(const std::string& path) {
  // O_NONBLOCK: opening a pipe nobody writes to must not hang; it means nothing for regular files.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return Status(Code::not_found, path + ": no such file");
    return Status::from_errno("open", path, errno);
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int error = errno;
    ::close(fd);
    return Status::from_errno("stat", path, error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return Status(Code::unsupported, path + ": not a regular file");
  }
  return std::make_shared<const InputFile>(path, fd, static_cast<std::uint64_t>(info.st_size));
}

InputFile::~InputFile() { ::close(fd_); }

Status InputFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Status::from_errno("read of " + std::to_string(out.size()) + " bytes at " + std::to_string(offset), path_, errno);
    }
    if (n == 0) {
      return corrupt_file(path_, offset + done, "end of file", std::to_string(out.size() - done) + " more bytes",
                          "none (the file was " + std::to_string(size_) + " bytes long when it was opened)");
    }
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Status corrupt_file(const std::string& path, std::uint64_t offset, const std::string& what, const std::string& expected,
                    const std::string& found) {
  return {Code::corrupt,
          path + ": at byte " + std::to_string(offset) + ": " + what + ": expected " + expected + ", found " + found};
}

}  // namespace strata
