// How far from each other arrays lie that are walked side by side.
#pragma once

#include <cstdint>

namespace strata {

// Bytes from the beginning of an array of `bytes` to that of the next: large arrays whose addresses differ by a power of two
// would share cache sets and halve the speed of an update.
inline std::int64_t array_stride(std::int64_t bytes) {
  const std::int64_t whole = (bytes + 63) / 64 * 64;
  return whole + (bytes >= (std::int64_t{1} << 20) ? 32768 : 0);
}

}  // namespace strata
