// The loops of elementwise.h, one table per instruction set. All are single-threaded over [0, n).
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

struct ElementwiseTable {
  void (*add_f32)(const float* a, const float* b, float* y, std::int64_t n);
  void (*add_bf16)(const bf16* a, const bf16* b, bf16* y, std::int64_t n);
  void (*f32_to_bf16)(const float* x, bf16* y, std::int64_t n);
  void (*bf16_to_f32)(const bf16* x, float* y, std::int64_t n);
  void (*f32_to_f16)(const float* x, f16* y, std::int64_t n);
  void (*f16_to_f32)(const f16* x, float* y, std::int64_t n);
  void (*accumulate_f32)(const float* x, float* acc, std::int64_t n);
  void (*sum_squares_blocks)(const float* x, std::int64_t n, double* partials);
  std::uint64_t (*sum_relative_changes)(const float* before, const float* after, std::int64_t n);
  bool (*all_finite_f32)(const float* x, std::int64_t n);
  bool (*all_finite_16)(const std::uint16_t* x, std::uint16_t exponent_mask, std::int64_t n);
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(ElementwiseTable, elementwise_table)
