#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "model/safetensors_header.h"

namespace strata {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

// Reads exactly out.size() bytes at `offset`.
Status read_exactly(int fd, std::uint64_t offset, std::span<std::byte> out, const std::string& path) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        ::pread(fd, out.data() + done, std::min(out.size() - done, kMaxTransfer), static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return Status::from_errno("read of " + std::to_string(out.size()) + " bytes at " + std::to_string(offset), path, errno);
    if (n == 0)
      return {Code::corrupt, path + ": the file ends at " + std::to_string(offset + done) + ", inside a read of " +
                                 std::to_string(out.size()) + " bytes at " + std::to_string(offset)};
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<SafetensorsHeader> read_header(int fd, const std::string& path, std::uint64_t& data_start) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Status::from_errno("fstat", path, errno);
  if (!S_ISREG(info.st_mode)) return Status(Code::invalid_argument, path + ": not a regular file");
  const auto file_bytes = static_cast<std::uint64_t>(info.st_size);
  if (file_bytes < 8) return Status(Code::corrupt, path + ": " + std::to_string(file_bytes) + " bytes are no safetensors file");
  std::uint64_t length = 0;
  STRATA_RETURN_IF_ERROR(read_exactly(fd, 0, std::as_writable_bytes(std::span(&length, 1)), path));
  if (length > file_bytes - 8 || length > kMaxSafetensorsHeader)
    return Status(Code::corrupt, path + ": offset 0: a header of " + std::to_string(length) + " bytes, in a file of " +
                                     std::to_string(file_bytes) + " (at most " + std::to_string(kMaxSafetensorsHeader) +
                                     " allowed)");
  std::string text(length, '\0');
  STRATA_RETURN_IF_ERROR(read_exactly(fd, 8, std::as_writable_bytes(std::span(text)), path));
  data_start = 8 + length;
  return parse_safetensors_header(text, file_bytes - data_start, path);
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    const Status status = Status::from_errno("open", path, error);
    return error == ENOENT ? Status(Code::not_found, status.message()) : status;
  }
  SafetensorsFile file(path, fd);
  STRATA_ASSIGN_OR_RETURN(SafetensorsHeader header, read_header(fd, path, file.data_start_));
  file.tensors_ = std::move(header.tensors);
  file.metadata_ = std::move(header.metadata);
  for (std::size_t i = 0; i < file.tensors_.size(); ++i) file.by_name_[file.tensors_[i].name] = i;
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_start_(other.data_start_),
      tensors_(std::move(other.tensors_)),
      by_name_(std::move(other.by_name_)),
      metadata_(std::move(other.metadata_)) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(data_start_, other.data_start_);
  std::swap(tensors_, other.tensors_);
  std::swap(by_name_, other.by_name_);
  std::swap(metadata_, other.metadata_);
  return *this;
}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

const SafetensorsInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

Status SafetensorsFile::read(const SafetensorsInfo& tensor, std::uint64_t byte_offset, std::span<std::byte> out) const {
  STRATA_CHECK(byte_offset <= tensor.bytes() && out.size() <= tensor.bytes() - byte_offset,
               "read outside tensor " + tensor.name);
  return read_exactly(fd_, data_start_ + tensor.begin + byte_offset, out, path_).with_context("tensor '" + tensor.name + "'");
}

Status SafetensorsFile::read_f32(const SafetensorsInfo& tensor, std::int64_t first, std::span<float> out) const {
  const auto dtype = to_dtype(tensor.type);
  if (!dtype || *dtype == DType::i32)
    return {Code::unsupported,
            path_ + ": tensor '" + tensor.name + "' is " + to_string(tensor.type) + ", not F32, BF16 or F16"};
  STRATA_CHECK(first >= 0, "first element");
  const std::uint64_t offset = static_cast<std::uint64_t>(first) * size_of(tensor.type);
  if (*dtype == DType::f32) return read(tensor, offset, std::as_writable_bytes(out));
  // The 16-bit values go through a small buffer.
  std::vector<std::uint16_t> narrow(std::min(out.size(), std::size_t{1} << 18));
  for (std::size_t done = 0; done < out.size();) {
    const std::size_t n = std::min(out.size() - done, narrow.size());
    STRATA_RETURN_IF_ERROR(read(tensor, offset + done * 2, std::as_writable_bytes(std::span(narrow).first(n))));
    for (std::size_t i = 0; i < n; ++i)
      out[done + i] = *dtype == DType::bf16 ? to_float(bf16{narrow[i]}) : to_float(f16{narrow[i]});
    done += n;
  }
  return {};
}

class SafetensorsWriter::Impl {
 public:
  Impl(std::string path, std::vector<SafetensorsInfo> infos) : tensors(std::move(infos)), path_(std::move(path)) {
    buffer_.reserve(kBuffer);
  }
  ~Impl() {
    if (fd_ < 0) return;
    struct stat info {};
    const bool regular = ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);  // never a device or a pipe
    ::close(fd_);
    if (regular) ::unlink(path_.c_str());
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status open(const std::string& header) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) return Status::from_errno("create", path_, errno);
    const std::uint64_t length = header.size();
    header_bytes = 8 + length;
    STRATA_RETURN_IF_ERROR(put(std::as_bytes(std::span(&length, 1))));
    return put(std::as_bytes(std::span(header)));
  }

  // The tensor that still wants bytes; empty ones are passed over.
  const SafetensorsInfo& current(std::string_view name) {
    while (next < tensors.size() && tensors[next].name != name && position == tensors[next].end) ++next;
    STRATA_CHECK(next < tensors.size() && tensors[next].name == name,
                 "tensor '" + std::string(name) + "' is not the next one of " + path_);
    return tensors[next];
  }

  Status append(std::string_view name, std::span<const std::byte> bytes) {
    const SafetensorsInfo& tensor = current(name);
    STRATA_CHECK(bytes.size() <= tensor.end - position, "more bytes than tensor '" + tensor.name + "' has");
    position += bytes.size();
    return put(bytes);
  }

  Status finish(bool fsync) {
    const std::uint64_t total = tensors.empty() ? 0 : tensors.back().end;
    STRATA_CHECK(position == total,
                 "finish of " + path_ + " after " + std::to_string(position) + " of " + std::to_string(total) + " bytes");
    STRATA_RETURN_IF_ERROR(flush());
    if (fsync && ::fsync(fd_) != 0) return Status::from_errno("fsync", path_, errno);
    if (::close(std::exchange(fd_, -1)) != 0) return Status::from_errno("close", path_, errno);
    return {};
  }

  std::vector<SafetensorsInfo> tensors;
  std::size_t next = 0;
  std::uint64_t position = 0;  // data bytes so far
  std::uint64_t header_bytes = 0;

 private:
  static constexpr std::size_t kBuffer = std::size_t{1} << 20;

  Status put(std::span<const std::byte> bytes) {
    if (buffer_.size() + bytes.size() > kBuffer) STRATA_RETURN_IF_ERROR(flush());
    if (bytes.size() >= kBuffer) return write_all(bytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status flush() {
    STRATA_RETURN_IF_ERROR(write_all(buffer_));
    buffer_.clear();
    return {};
  }
  Status write_all(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxTransfer));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        return Status::from_errno("write of " + std::to_string(bytes.size()) + " bytes at " + std::to_string(written_), path_,
                                  n < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      written_ += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  std::string path_;
  int fd_ = -1;
  std::uint64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, std::vector<SafetensorsDecl> tensors,
                                                    const std::map<std::string, std::string>& metadata) {
  auto layout = layout_safetensors(std::move(tensors));
  if (!layout.ok()) return layout.status().with_context(path);
  const std::string header = print_safetensors_header(*layout, metadata);
  if (header.size() > kMaxSafetensorsHeader) return Status(Code::invalid_argument, path + ": too many tensors for one file");
  auto impl = std::make_unique<Impl>(path, std::move(layout).value());
  STRATA_RETURN_IF_ERROR(impl->open(header));
  return SafetensorsWriter(std::move(impl));
}

const std::vector<SafetensorsInfo>& SafetensorsWriter::tensors() const { return impl_->tensors; }

std::uint64_t SafetensorsWriter::file_bytes() const {
  return impl_->header_bytes + (impl_->tensors.empty() ? 0 : impl_->tensors.back().end);
}

Status SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) { return impl_->append(name, bytes); }

Status SafetensorsWriter::append_f32(std::string_view name, std::span<const float> values) {
  const SafetensorsType type = impl_->current(name).type;
  if (type == SafetensorsType::f32) return impl_->append(name, std::as_bytes(values));
  STRATA_CHECK(type == SafetensorsType::bf16 || type == SafetensorsType::f16,
               "floats into a tensor of " + std::string(to_string(type)));
  std::array<std::uint16_t, 8192> narrow;
  while (!values.empty()) {
    const std::size_t n = std::min(values.size(), narrow.size());
    for (std::size_t i = 0; i < n; ++i)
      narrow[i] = type == SafetensorsType::bf16 ? to_bf16(values[i]).bits : to_f16(values[i]).bits;
    STRATA_RETURN_IF_ERROR(impl_->append(name, std::as_bytes(std::span(narrow).first(n))));
    values = values.subspan(n);
  }
  return {};
}

Status SafetensorsWriter::finish(bool fsync) { return impl_->finish(fsync); }

}  // namespace strata
