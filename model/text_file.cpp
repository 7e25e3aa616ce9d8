#include "model/text_file.h"

#include <cerrno>
#include <cstdio>
#include <memory>

namespace strata {
namespace {

constexpr std::size_t kLimit = std::size_t{256} << 20;

struct Close {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

}  // namespace

Result<std::string> read_text_file(const std::string& path) {
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    const Status error = Status::from_errno("open", path, errno);
    return errno == ENOENT ? Status(Code::not_found, error.message()) : error;
  }
  std::string text;
  std::string piece(std::size_t{1} << 16, '\0');
  while (const std::size_t n = std::fread(piece.data(), 1, piece.size(), file.get())) {
    text.append(piece, 0, n);
    if (text.size() > kLimit) return Status(Code::corrupt, path + ": larger than 256 MiB, which this kind of file never is");
  }
  if (std::ferror(file.get())) return Status::from_errno("read", path, errno);
  return text;
}

Status write_text_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Status::from_errno("create", path, errno);
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int error = errno;
  if (std::fclose(file) != 0 && written) {
    written = false;
    error = errno;
  }
  if (written) return {};
  std::remove(path.c_str());
  return Status::from_errno("write of " + std::to_string(text.size()) + " bytes", path, error);
}

}  // namespace strata
