// Normal values of a Philox stream (runtime/rng.h), one table per instruction set; all give the same bits.
//
// Values come in groups of kNormalGroup, of as many blocks as a quarter of it: value 32 k + l of group g is the kth of block
// 32 g + l, whose words 0 and 1 give its first two values, words 2 and 3 the others (normal_rule.h).
#pragma once

#include <cstdint>

#include "runtime/kernels/isa.h"

namespace strata::kernels {

inline constexpr int kNormalLanes = 32;
inline constexpr int kNormalGroup = 4 * kNormalLanes;

struct NormalStream {
  std::uint64_t seed = 0, stream = 0;
  float mean = 0.0f, deviation = 1.0f;
};

struct NormalTable {
  // Whole groups: `groups` from `first_group` on, kNormalGroup values each.
  void (*fill)(const NormalStream& stream, std::uint64_t first_group, std::int64_t groups, float* out);
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(NormalTable, normal_table)
