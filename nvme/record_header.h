// The header block of a record as a value; nvme/format.h has the offsets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "nvme/format.h"

namespace strata {

struct RecordHeader {
  std::int64_t record = 0;
  std::uint64_t version = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t payload_checksum = 0;
};

std::uint64_t checksum(std::span<const std::byte> bytes);  // XXH3-64, seed 0

// Fills the whole block.
void encode(const RecordHeader& header, std::span<std::byte, format::kBlockBytes> block);
// Empty: `block` is the intact header of exactly this record, version and size, and `checksum` was set to that of its payload.
// Otherwise what differs, as a phrase.
std::string check_header(std::span<const std::byte, format::kBlockBytes> block, std::int64_t record, std::uint64_t version,
                         std::uint64_t payload_bytes, std::uint64_t* payload_checksum);

// "0x0123456789abcdef".
std::string hex(std::uint64_t value);

}  // namespace strata
