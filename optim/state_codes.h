// Dynamic 8-bit codes (Dettmers et al. 2022, arXiv 2110.02861; the maps of bitsandbytes): 256 values in [-1, 1], or in [0, 1]
// for what is never negative, that lie closer where they are small. A block of 256 elements has a code each and the f32 that
// they are multiples of, its largest magnitude: kEightBitStates, 256 bytes and 4.
//
// An element's code is that of the value nearest to its quotient by the largest magnitude, taken as its product with the
// reciprocal; half way, the smaller magnitude's. A block that holds an infinity or a NaN is all NaN.
#pragma once

#include <cstdint>

namespace strata {

struct StateCodes {
  // Cells of magnitudes: those of equal upper 16 bits, from 2^-23 to 1. No cell holds two thresholds.
  static constexpr std::int32_t kFirstCell = (127 - 23) << 7, kCells = (23 << 7) + 1;
  static constexpr int kSignedZero = 127;  // the code of 0, where values are signed; else it is 0
  bool is_signed;
  float values[256];               // of each code, ascending
  std::uint8_t below[kCells + 3];  // thresholds below all of a cell; three more are read
  std::uint32_t thresholds[256];   // the last f32 at or before half way from the nth magnitude to the next, as bits
};
const StateCodes& signed_codes();
const StateCodes& unsigned_codes();

}  // namespace strata
