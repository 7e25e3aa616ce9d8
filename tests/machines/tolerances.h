// How far a result may be from what it is compared with: one table for all processors and all tests of numbers.
#pragma once

#include "runtime/dtype.h"

namespace strata::testing {

// |actual - expected| <= absolute + relative * |expected|.
struct Tolerance {
  double relative, absolute;
};

// A kernel against doubles. 16-bit outputs are rounded once: half an ulp is 2^-9 of the value (2^-8 next to a power of two);
// the rest is for f32 sums.
inline Tolerance kernel_tolerance(DType dtype) { return dtype == DType::f32 ? Tolerance{1e-5, 2e-6} : Tolerance{4.1e-3, 1e-5}; }

// Attention against doubles: the largest error, and the root mean square error, over the root mean square of what is expected.
// In bf16 probabilities are rounded on the way, so single elements cannot be held to their own size.
struct AttentionTolerance {
  double largest, mean;
};
inline AttentionTolerance attention_tolerance(DType dtype) {
  return dtype == DType::f32 ? AttentionTolerance{3e-5, 1e-6} : AttentionTolerance{1e-1, 6e-3};
}

// Losses of the first steps of a small model on two processors, absolute: sums in other orders.
inline double loss_tolerance(DType compute) { return compute == DType::f32 ? 2e-5 : 2e-2; }

// A small model in f32 against PyTorch's stored numbers.
inline constexpr double kLogits = 1e-4;              // absolute
inline constexpr double kGradient = 1e-4;            // of a tensor, relative to its norm
inline constexpr double kWeights = 1e-4;             // after ten steps, relative to the tensor's norm
inline constexpr double kLoss = 1e-5;                // of each of ten steps, relative
inline constexpr double kGradientNorm = 1e-4;        // of each of ten steps, relative
inline constexpr double kBf16GradientCosine = 0.99;  // at least; bf16 against f32

}  // namespace strata::testing
