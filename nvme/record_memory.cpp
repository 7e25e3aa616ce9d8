#include "nvme/record_memory.h"

#include <algorithm>
#include <cstring>

#include "nvme/record_header.h"

namespace strata {

Result<std::uint64_t> HostRecordMemory::checksum(std::span<const std::byte> bytes) { return strata::checksum(bytes); }

Status HostRecordMemory::zero(std::span<std::byte> bytes) {
  std::fill(bytes.begin(), bytes.end(), std::byte{0});
  return {};
}

Status HostRecordMemory::load(const std::byte* from, HeaderBlock& block) {
  std::memcpy(block.data(), from, block.size());
  return {};
}

Status HostRecordMemory::store(const HeaderBlock& block, std::byte* to) {
  std::memcpy(to, block.data(), block.size());
  return {};
}

}  // namespace strata
