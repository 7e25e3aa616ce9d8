// Constants of the state file; docs/state_format.md has the grammar, an example and the reasons. All integers little endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace strata::format {

// Slots, payload and header start at multiples of this. Files whose direct I/O demands more are used through the page cache.
inline constexpr std::size_t kBlockBytes = 4096;
inline constexpr std::size_t kSlots = 2;  // version v lies in slot v % kSlots
// Of a payload, dealt to one path. Large enough for a device's full speed, small enough that one record uses every path.
inline constexpr std::size_t kChunkBytes = std::size_t{2} << 20;

inline constexpr std::array<char, 8> kMagic = {'S', 'T', 'R', 'A', 'T', 'R', 'E', 'C'};
inline constexpr std::uint32_t kFormatVersion = 1;

// The header block: offsets of its fields, the rest of its kBlockBytes is zero.
inline constexpr std::size_t kMagicAt = 0;             // 8 bytes
inline constexpr std::size_t kFormatVersionAt = 8;     // u32
inline constexpr std::size_t kHeaderBytesAt = 12;      // u32, kHeaderBytes
inline constexpr std::size_t kRecordIdAt = 16;         // i64
inline constexpr std::size_t kVersionAt = 24;          // u64
inline constexpr std::size_t kPayloadBytesAt = 32;     // u64
inline constexpr std::size_t kPayloadChecksumAt = 40;  // u64, XXH3-64 (seed 0) of the payload
inline constexpr std::size_t kHeaderChecksumAt = 48;   // u64, XXH3-64 (seed 0) of the bytes before it
inline constexpr std::size_t kHeaderBytes = 56;

}  // namespace strata::format
