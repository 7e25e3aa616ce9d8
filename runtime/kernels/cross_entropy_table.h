// The loops of cross_entropy.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

// One row of V logits whose target is valid; dx is null (loss only), x itself when the dtypes are equal, or another buffer.
template <class T>
struct CrossEntropyLoops {
  float (*to_f32)(const T* x, float* dx, std::int64_t V, std::int64_t target, float scale);
  float (*to_bf16)(const T* x, bf16* dx, std::int64_t V, std::int64_t target, float scale);
};

using CrossEntropyTable = ByDType<CrossEntropyLoops>;

}  // namespace strata::kernels

STRATA_ISA_TABLE(CrossEntropyTable, cross_entropy_table)
