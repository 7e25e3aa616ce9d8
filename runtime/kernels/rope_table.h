// The loops of rope.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

template <class T>
struct RopeLoop {
  T* qkv;
  const float* cos;
  const float* sin;
  std::int64_t seq, heads, H, D;  // seq: tokens of a sequence; heads: rotated ones; D: elements of a row
  bool inverse;
};

template <class T>
struct RopeLoops {
  // Rows [first, last).
  void (*apply)(const RopeLoop<T>& a, std::int64_t first, std::int64_t last);
};

using RopeTable = ByDType<RopeLoops>;

}  // namespace strata::kernels

STRATA_ISA_TABLE(RopeTable, rope_table)
