// The memory that a record's buffer lies in, as far as a RecordFile works on it itself: the checksum of the payload, the zeros
// behind it and the header block. Everything else is an IoEngine's. Bodies: the host's, and a GPU's (gpu_record_memory.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nvme/format.h"
#include "runtime/status.h"

namespace strata {

using HeaderBlock = std::array<std::byte, format::kBlockBytes>;  // in host memory

// Each from one thread at a time. What a call did is done when it returns.
class RecordMemory {
 public:
  virtual ~RecordMemory() = default;
  virtual Result<std::uint64_t> checksum(std::span<const std::byte> bytes) = 0;  // XXH3-64, seed 0
  virtual Status zero(std::span<std::byte> bytes) = 0;
  virtual Status load(const std::byte* from, HeaderBlock& block) = 0;
  virtual Status store(const HeaderBlock& block, std::byte* to) = 0;
};

class HostRecordMemory final : public RecordMemory {
 public:
  Result<std::uint64_t> checksum(std::span<const std::byte> bytes) override;
  Status zero(std::span<std::byte> bytes) override;
  Status load(const std::byte* from, HeaderBlock& block) override;
  Status store(const HeaderBlock& block, std::byte* to) override;
};

}  // namespace strata
