#include "nvme/record_file.h"

#include <utility>

#include "nvme/block_file.h"
#include "nvme/format.h"
#include "nvme/record_header.h"
#include "nvme/record_layout.h"

namespace strata {
namespace {

std::string name(RecordId id, std::uint64_t version) {
  return "record " + std::to_string(id.v) + ", version " + std::to_string(version);
}

}  // namespace

class RecordFile::Impl {
 public:
  Impl(BlockFile file, RecordLayout layout) : file_(std::move(file)), layout_(std::move(layout)), last_(layout_.records()) {}
  ~Impl() { file_.unlink(); }

  Status write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);
  Status read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);
  Status run(IoEngine& engine, IoRequest::Kind kind, std::span<std::byte> data, std::uint64_t offset);
  Status write_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer);
  std::size_t index(RecordId id) const {
    STRATA_CHECK(id.v >= 0 && static_cast<std::size_t>(id.v) < layout_.records(), "no record " + std::to_string(id.v));
    return static_cast<std::size_t>(id.v);
  }

  BlockFile file_;
  const RecordLayout layout_;

 private:
  struct Last {
    bool written = false;
    std::uint64_t version = 0;
  };
  std::vector<Last> last_;  // of each record, changed by its writer only
};

Status RecordFile::Impl::run(IoEngine& engine, IoRequest::Kind kind, std::span<std::byte> data, std::uint64_t offset) {
  if (data.empty()) return {};
  const IoRequest request{kind, file_.fd(), data.data(), data.size(), offset};
  return engine.run({&request, 1}, file_.path());
}

// A crash between the two leaves the slot with an old header that its payload contradicts: unreadable, as it should be.
Status RecordFile::Impl::write_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer) {
  STRATA_RETURN_IF_ERROR(run(engine, IoRequest::Kind::write, buffer.first(extent.padded_payload), extent.offset));
  return run(engine, IoRequest::Kind::write, buffer.subspan(extent.padded_payload, format::kBlockBytes),
             extent.header_offset());
}

Status RecordFile::Impl::write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  const std::size_t r = index(id);
  Last& last = last_[r];
  STRATA_CHECK(!last.written || (version > last.version && (version - last.version) % format::kSlots != 0),
               "version " + std::to_string(version) + " would overwrite version " + std::to_string(last.version));
  const RecordExtent extent = layout_.extent(r, version);
  STRATA_CHECK(buffer.size() >= extent.bytes(), "the buffer of a record holds its header block too");
  const std::size_t payload_bytes = layout_.payload_bytes(r);
  const auto payload = buffer.first(extent.padded_payload);
  const auto block = buffer.subspan(extent.padded_payload).first<format::kBlockBytes>();
  std::fill(payload.begin() + static_cast<std::ptrdiff_t>(payload_bytes), payload.end(), std::byte{0});
  encode({id.v, version, payload_bytes, checksum(payload.first(payload_bytes))}, block);
  if (const Status status = write_slot(engine, extent, buffer); !status.ok()) return status.with_context(name(id, version));
  last = {true, version};
  return {};
}

Status RecordFile::Impl::read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  const std::size_t r = index(id);
  const RecordExtent extent = layout_.extent(r, version);
  STRATA_CHECK(buffer.size() >= extent.bytes(), "the buffer of a record holds its header block too");
  if (const Status status = run(engine, IoRequest::Kind::read, buffer.first(extent.bytes()), extent.offset); !status.ok()) {
    return status.with_context(name(id, version));
  }
  const std::size_t payload_bytes = layout_.payload_bytes(r);
  std::uint64_t stored = 0;
  std::string wrong =
      check_header(buffer.subspan(extent.padded_payload).first<format::kBlockBytes>(), id.v, version, payload_bytes, &stored);
  std::uint64_t at = extent.header_offset();
  if (wrong.empty()) {
    const std::uint64_t computed = checksum(buffer.first(payload_bytes));
    if (computed == stored) return {};
    wrong = "its payload has checksum " + hex(computed) + " and its header says " + hex(stored);
    at = extent.offset;
  }
  return {Code::corrupt, file_.path() + ": " + name(id, version) + ", at offset " + std::to_string(at) + ": " + wrong};
}

RecordFile::RecordFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RecordFile::~RecordFile() = default;

Result<std::unique_ptr<RecordFile>> RecordFile::create(const std::string& path, std::vector<std::size_t> payload_bytes,
                                                       const RecordFileOptions& options) {
  RecordLayout layout(std::move(payload_bytes));
  STRATA_ASSIGN_OR_RETURN(
      BlockFile file, BlockFile::create(path, layout.file_bytes(), {.direct = options.direct, .prewrite = options.prewrite}));
  return std::unique_ptr<RecordFile>(new RecordFile(std::make_unique<Impl>(std::move(file), std::move(layout))));
}

std::size_t RecordFile::file_bytes(std::span<const std::size_t> payload_bytes) {
  return RecordLayout({payload_bytes.begin(), payload_bytes.end()}).file_bytes();
}

std::size_t RecordFile::buffer_bytes_for(std::size_t payload_bytes) { return RecordLayout::extent_bytes(payload_bytes); }

std::size_t RecordFile::buffer_bytes(RecordId id) const {
  return RecordLayout::extent_bytes(impl_->layout_.payload_bytes(impl_->index(id)));
}

Status RecordFile::write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  return impl_->write(engine, id, version, buffer);
}

Status RecordFile::read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  return impl_->read(engine, id, version, buffer);
}

const std::string& RecordFile::path() const { return impl_->file_.path(); }
const std::string& RecordFile::why_buffered() const { return impl_->file_.why_buffered(); }

}  // namespace strata
