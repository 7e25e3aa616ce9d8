#include "nvme/record_header.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace strata {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little endian and written as it lies in memory");

template <class T>
void put(std::span<std::byte> block, std::size_t at, T value) {
  std::memcpy(block.data() + at, &value, sizeof value);
}

template <class T>
T get(std::span<const std::byte> block, std::size_t at) {
  T value{};
  std::memcpy(&value, block.data() + at, sizeof value);
  return value;
}

std::string differs(const std::string& what, std::uint64_t found, std::uint64_t expected) {
  return "its header says " + what + " " + std::to_string(found) + " instead of " + std::to_string(expected);
}

}  // namespace

std::string hex(std::uint64_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x0000000000000000";
  for (std::size_t i = text.size(); i > 2; value >>= 4) text[--i] = kDigits[value & 15];
  return text;
}

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

void encode(const RecordHeader& header, std::span<std::byte, format::kBlockBytes> block) {
  std::fill(block.begin(), block.end(), std::byte{0});
  put(block, format::kMagicAt, format::kMagic);
  put(block, format::kFormatVersionAt, format::kFormatVersion);
  put(block, format::kHeaderBytesAt, static_cast<std::uint32_t>(format::kHeaderBytes));
  put(block, format::kRecordIdAt, header.record);
  put(block, format::kVersionAt, header.version);
  put(block, format::kPayloadBytesAt, header.payload_bytes);
  put(block, format::kPayloadChecksumAt, header.payload_checksum);
  put(block, format::kHeaderChecksumAt, checksum(block.first(format::kHeaderChecksumAt)));
}

std::string check_header(std::span<const std::byte, format::kBlockBytes> block, std::int64_t record, std::uint64_t version,
                         std::uint64_t payload_bytes, std::uint64_t* payload_checksum) {
  if (get<std::array<char, 8>>(block, format::kMagicAt) != format::kMagic) return "there is no record header";
  const std::uint64_t computed = checksum(block.first(format::kHeaderChecksumAt));
  if (const auto stored = get<std::uint64_t>(block, format::kHeaderChecksumAt); stored != computed) {
    return "its header has checksum " + hex(computed) + " and says " + hex(stored);
  }
  if (const auto found = get<std::uint32_t>(block, format::kFormatVersionAt); found != format::kFormatVersion) {
    return differs("format version", found, format::kFormatVersion);
  }
  if (const auto found = get<std::int64_t>(block, format::kRecordIdAt); found != record) {
    return differs("record", static_cast<std::uint64_t>(found), static_cast<std::uint64_t>(record));
  }
  if (const auto found = get<std::uint64_t>(block, format::kVersionAt); found != version)
    return differs("version", found, version);
  if (const auto found = get<std::uint64_t>(block, format::kPayloadBytesAt); found != payload_bytes) {
    return differs("payload bytes", found, payload_bytes);
  }
  *payload_checksum = get<std::uint64_t>(block, format::kPayloadChecksumAt);
  return {};
}

}  // namespace strata
