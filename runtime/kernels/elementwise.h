// Sums, casts and checks over flat ranges. See embedding.h for threads and ordering.
#pragma once

#include <cstdint>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// y = a + b (computed in f32, rounded once). y may be a or b.
struct AddArgs {
  ConstTensorRef a, b;
  TensorRef y;
};
void add(const AddArgs& args, StreamRef stream);

// y = x converted between f32, bf16 and f16 (dtype.h's rounding).
struct CastArgs {
  ConstTensorRef x;
  TensorRef y;
};
void cast(const CastArgs& args, StreamRef stream);

// Synchronous host versions for other modules' worker threads (any thread, no stream): the same bits as the stream versions.
void cast_f32_to_bf16(const float* x, bf16* y, std::int64_t n);
void cast_bf16_to_f32(const bf16* x, float* y, std::int64_t n);
// acc[i] += x[i]
void accumulate_f32(const float* x, float* acc, std::int64_t n);

// partials[k] = sum of squares of x[4096k .. min(4096(k+1), n)): 16 double lanes (lane l sums elements l, l+16, ... of the
// block), combined as a fixed tree. The unit of every norm (DESIGN.md section 7.4): independent of how x is cut, provided cuts
// are multiples of kNormBlock.
inline constexpr std::int64_t kNormBlock = 4096;
void sum_squares_blocks(const float* x, std::int64_t n, double* partials);
// On a stream; partials are memory of the stream's device.
struct SumSquaresArgs {
  const float* x = nullptr;
  std::int64_t n = 0;
  double* partials = nullptr;
};
void sum_squares_blocks(const SumSquaresArgs& args, StreamRef stream);
// cast and sum_squares_blocks of x, which is read once: y = x rounded, and the partials of x as it was.
struct RoundAndSumSquaresArgs {
  const float* x = nullptr;
  bf16* y = nullptr;
  std::int64_t n = 0;
  double* partials = nullptr;
};
void round_and_sum_squares(const RoundAndSumSquaresArgs& args, StreamRef stream);

// *sum = the sum over [0, n) of round(min(|(before - after) / before|, 1) * 2^30), the quotient in f32, to the nearest even; an
// element that was 0 counts 0, one that is no number counts 2^30. A sum of integers, so that no cut and no order changes it;
// n below 2^34. All are memory of the stream's device; a GPU needs `partials`, kChangePartials numbers, too.
inline constexpr double kChangeUnits = 0x1p30;
inline constexpr std::int64_t kChangePartials = 512;
struct SumRelativeChangesArgs {
  const float* before = nullptr;
  const float* after = nullptr;
  std::int64_t n = 0;
  std::uint64_t* sum = nullptr;
  std::uint64_t* partials = nullptr;
};
void sum_relative_changes(const SumRelativeChangesArgs& args, StreamRef stream);

// Index of the first element that is not finite, or -1. Host memory.
std::int64_t find_nonfinite(ConstTensorRef x);

}  // namespace strata::kernels
