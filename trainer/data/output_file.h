// Writing of files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata {

// A file written beside its place, as PATH.partial, and renamed into it. One writer at a time: a second one for the same
// path is refused while the first lives (an abandoned .partial file of a killed process is taken over). Uncommitted files are
// removed by the destructor. Not thread-safe.
class OutputFile {
 public:
  static Result<std::unique_ptr<OutputFile>> create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return written_ + buffer_.size(); }
  // Buffered: an error (disk full) may come with a later call; after an error only destruction is allowed.
  Status write(std::span<const std::byte> bytes);
  // Everything is on the disk when this returns; commit may follow, write may not.
  Status finish();
  // After finish: the rename, made durable.
  Status commit();

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string partial() const { return path_ + ".partial"; }
  Status flush();
  std::string path_;
  int fd_;
  std::uint64_t written_ = 0;
  bool finished_ = false;
  bool committed_ = false;
  std::vector<std::byte> buffer_;
};

}  // namespace strata
