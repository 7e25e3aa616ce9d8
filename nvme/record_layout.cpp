#include "nvme/record_layout.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "runtime/status.h"

namespace strata {
namespace {

constexpr std::array<double, 1> kOnePath = {1.0};

std::size_t padded(std::size_t bytes) { return (bytes + format::kBlockBytes - 1) / format::kBlockBytes * format::kBlockBytes; }

// Chunks of a padded payload. A record without payload has an empty one, which the header lies behind.
std::size_t chunks(std::size_t payload) {
  return std::max<std::size_t>(1, (payload + format::kChunkBytes - 1) / format::kChunkBytes);
}

std::size_t chunk_bytes(std::size_t payload, std::size_t chunk) {
  return std::min(format::kChunkBytes, payload - chunk * format::kChunkBytes);
}

class Dealer {
 public:
  explicit Dealer(std::span<const double> weights) : weights_(weights), dealt_(weights.size()) {}

  std::size_t deal(std::uint64_t bytes) {
    std::size_t best = 0;
    double earliest = std::numeric_limits<double>::infinity();
    for (std::size_t p = 0; p < weights_.size(); ++p) {
      const double done = static_cast<double>(dealt_[p] + bytes) / weights_[p];
      if (done < earliest) {
        earliest = done;
        best = p;
      }
    }
    dealt_[best] += bytes;
    return best;
  }

 private:
  std::span<const double> weights_;
  std::vector<std::uint64_t> dealt_;
};

}  // namespace

RecordLayout::RecordLayout(std::vector<std::size_t> payload_bytes, std::size_t slots)
    : RecordLayout(std::move(payload_bytes), kOnePath, slots) {}

RecordLayout::RecordLayout(std::vector<std::size_t> payload_bytes, std::span<const double> weights, std::size_t slots)
    : payload_bytes_(std::move(payload_bytes)),
      slots_(slots),
      file_bytes_(weights.size()),
      parts_(payload_bytes_.size() * weights.size()) {
  STRATA_CHECK(slots == 1 || slots == format::kSlots, "a record has one slot or two");
  STRATA_CHECK(!weights.empty() && weights.size() <= std::numeric_limits<std::uint16_t>::max() &&
                   std::all_of(weights.begin(), weights.end(), [](double w) { return w > 0; }),
               "every path has a positive weight");
  Dealer dealer(weights);
  for (std::size_t r = 0; r < records(); ++r) {
    const std::size_t payload = padded(payload_bytes_[r]);
    Part* const mine = &parts_[r * paths()];
    first_chunk_.push_back(chunk_paths_.size());
    for (std::size_t c = 0, n = chunks(payload); c < n; ++c) {
      const std::size_t bytes = chunk_bytes(payload, c) + (c + 1 == n ? format::kBlockBytes : 0);
      const std::size_t path = dealer.deal(bytes);
      chunk_paths_.push_back(static_cast<std::uint16_t>(path));
      mine[path].slot_bytes += bytes;
    }
    for (std::size_t p = 0; p < paths(); ++p) {
      mine[p].offset = file_bytes_[p];
      file_bytes_[p] += slots_ * mine[p].slot_bytes;
    }
  }
}

std::size_t RecordLayout::extent_bytes(std::size_t payload_bytes) { return padded(payload_bytes) + format::kBlockBytes; }

std::uint64_t RecordLayout::total_bytes() const {
  return std::accumulate(file_bytes_.begin(), file_bytes_.end(), std::uint64_t{0});
}

RecordExtent RecordLayout::extent(std::size_t record, std::uint64_t version) const {
  RecordExtent extent;
  extent.padded_payload = padded(payload_bytes_[record]);
  std::vector<std::uint64_t> next(paths());  // free offset in each file
  for (std::size_t p = 0; p < paths(); ++p) {
    next[p] = part(record, p).offset + version % slots_ * part(record, p).slot_bytes;
  }
  std::size_t path = 0;
  for (std::size_t c = 0, n = chunks(extent.padded_payload); c < n; ++c) {
    const bool goes_on = c > 0 && chunk_paths_[first_chunk_[record] + c] == path;
    path = chunk_paths_[first_chunk_[record] + c];
    const std::size_t bytes = chunk_bytes(extent.padded_payload, c);
    if (goes_on) {
      extent.payload.back().bytes += bytes;
    } else if (bytes > 0) {
      extent.payload.push_back({path, next[path], c * format::kChunkBytes, bytes});
    }
    next[path] += bytes;
  }
  extent.header = {path, next[path], extent.padded_payload, format::kBlockBytes};
  return extent;
}

}  // namespace strata
