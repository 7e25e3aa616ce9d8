// Reading of files that somebody else wrote: positional reads only, so that a file that shrinks, or a disk that fails, is a
// Status and not a signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/status.h"

namespace strata {

// A regular file open for reading. Immutable and thread-safe.
class InputFile {
 public:
  // not_found: no such file; unsupported: a folder, pipe or device; io_error: the system refused.
  static Result<std::shared_ptr<const InputFile>> open(const std::string& path);
  InputFile(std::string path, int fd, std::uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }  // when it was opened
  // Fills `out` from byte `offset`; corrupt when the file ends before.
  Status read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  int fd_;
  std::uint64_t size_;
};

// Code::corrupt: "PATH: at byte OFFSET: WHAT: expected EXPECTED, found FOUND".
Status corrupt_file(const std::string& path, std::uint64_t offset, const std::string& what, const std::string& expected,
                    const std::string& found);

}  // namespace strata
