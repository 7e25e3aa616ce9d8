// The safetensors file format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes without holes.
// https://huggingface.co/docs/safetensors. Nothing in a file is believed before it was checked against the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/status.h"

namespace strata {

// Every type of the format whose elements are whole bytes.
enum class SafetensorsType { f64, i64, u64, f32, i32, u32, bf16, f16, i16, u16, i8, u8, boolean, f8_e4m3, f8_e5m2 };
std::size_t size_of(SafetensorsType type);
const char* to_string(SafetensorsType type);  // as in the header: "F32", "BF16", "BOOL"
SafetensorsType safetensors_type(DType dtype);
std::optional<DType> to_dtype(SafetensorsType type);  // nothing for the types that are opaque to us

struct SafetensorsInfo {
  std::string name;
  SafetensorsType type = SafetensorsType::f32;
  std::vector<std::int64_t> shape;   // any rank; empty for a scalar
  std::uint64_t begin = 0, end = 0;  // bytes, counted from the end of the header

  std::int64_t numel() const;
  std::uint64_t bytes() const { return end - begin; }
};

// "[2, 3]"
std::string shape_string(std::span<const std::int64_t> shape);

// An open file. Immutable after open(): any thread may read, several at a time.
class SafetensorsFile {
 public:
  // Reads and checks the header: length and offsets inside the file, size = shape * type, no overlap, no hole, no name twice.
  // Errors: not_found / io_error (path and errno), corrupt (file, tensor, offset and what is wrong), unsupported (unknown
  // type).
  static Result<SafetensorsFile> open(const std::string& path);
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsInfo>& tensors() const { return tensors_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsInfo* find(std::string_view name) const;  // null when absent

  // Reads bytes [byte_offset, byte_offset + out.size()) of a tensor of this file; the range must lie inside it.
  Status read(const SafetensorsInfo& tensor, std::uint64_t byte_offset, std::span<std::byte> out) const;
  // Elements [first, first + out.size()) of a f32, bf16 or f16 tensor as f32 (exact). Other types: unsupported.
  Status read_f32(const SafetensorsInfo& tensor, std::int64_t first, std::span<float> out) const;

 private:
  SafetensorsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_ = -1;
  std::uint64_t data_start_ = 0;
  std::vector<SafetensorsInfo> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsDecl {
  std::string name;
  SafetensorsType type = SafetensorsType::f32;
  std::vector<std::int64_t> shape;
};

// Writes one file as a stream. The order in the file is fixed by the declarations (wide types first, so that every tensor is
// aligned, then by name): the same content gives the same bytes. One thread. A file that was not finished is removed.
class SafetensorsWriter {
 public:
  // Creates or truncates `path` and writes the header. Errors: io_error with path and errno; invalid_argument: a name twice.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<SafetensorsDecl> tensors,
                                          const std::map<std::string, std::string>& metadata);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  // The order in which data has to come.
  const std::vector<SafetensorsInfo>& tensors() const;
  std::uint64_t file_bytes() const;  // when finished
  // The next bytes of tensor `name`, which must be the one whose turn it is; a tensor may come in any number of pieces.
  Status append(std::string_view name, std::span<const std::byte> bytes);
  // Values rounded to the tensor's type (f32, bf16 or f16).
  Status append_f32(std::string_view name, std::span<const float> values);
  // Every declared byte must have been appended. fsync: also waits until the file is on the device.
  Status finish(bool fsync);

 private:
  class Impl;
  explicit SafetensorsWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
