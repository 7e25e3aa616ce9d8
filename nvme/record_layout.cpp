#include "nvme/record_layout.h"

#include "nvme/format.h"

namespace strata {
namespace {

std::size_t padded(std::size_t bytes) { return (bytes + format::kBlockBytes - 1) / format::kBlockBytes * format::kBlockBytes; }

}  // namespace

std::size_t RecordExtent::bytes() const { return padded_payload + format::kBlockBytes; }

RecordLayout::RecordLayout(std::vector<std::size_t> payload_bytes) : payload_bytes_(std::move(payload_bytes)) {
  offsets_.reserve(payload_bytes_.size());
  for (const std::size_t bytes : payload_bytes_) {
    offsets_.push_back(file_bytes_);
    file_bytes_ += format::kSlots * extent_bytes(bytes);
  }
}

std::size_t RecordLayout::extent_bytes(std::size_t payload_bytes) { return padded(payload_bytes) + format::kBlockBytes; }

RecordExtent RecordLayout::extent(std::size_t record, std::uint64_t version) const {
  const std::size_t payload = padded(payload_bytes_[record]);
  return {offsets_[record] + (version % format::kSlots) * (payload + format::kBlockBytes), payload};
}

}  // namespace strata
