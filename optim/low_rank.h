// The arithmetic that APOLLO (apollo.h) and GaLore (galore.h) share: blocks of whole rows of one matrix, whose gradient is seen
// through a projection to few columns, and moments of what is seen.
//
// A matrix lies with its longer dim as rows (lies_transposed()), so that each row has its own moments and needs
// no other row: one orientation serves what the papers call left and right. Any cutting into blocks of whole rows gives the
// same bits, on every processor, because every sum has one written order. Per row, each operation rounded once to f32 unless it
// says f64:
//   g'[j] = g[j] * grad_scale
//   R[k]: from +0, R[k] = fma(g'[j], P[j][k], R[k]) for j ascending
//   m = fma(one_minus_beta1, R - m, m);  v = fma(one_minus_beta2 * R, R, beta2 * v);  N = m / (sqrt(v) + eps)
//   squares(x) in f64: lane l of 16 adds the squares (exact in f64) of x[l], x[l + 16], ... in this order; then lanes l and
//   l + 8 are added, l and l + 4, l + 2, l + 1
// No bias correction in N: it is in the step size. Moments begin at zero and stay when the projection changes. A NaN is stored
// as 0x7fc00000, in f64 as 0x7ff8000000000000. Denormals are kept.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"

namespace strata {

// Row-major, f32 but for what has 16 in its name; any alignment of the element type. No two arrays overlap.
struct LowRankBlock {
  std::int64_t rows = 0;
  std::int64_t columns = 0;   // the shorter dim of the matrix, >= 1
  std::int64_t rank = 0;      // >= 1; may exceed columns
  const float* g = nullptr;   // rows x columns
  const bf16* g16 = nullptr;  // if any, the gradient is this and not g
  const float* projection =
      nullptr;         // columns x rank: P transposed, where the papers multiply by P of rank x columns from the right
  float* m = nullptr;  // rows x rank
  float* v = nullptr;
  // Both or none: what m and v become goes here, and they are only read.
  float* new_m = nullptr;
  float* new_v = nullptr;
};

// The weights of a block, rows x columns.
struct WeightRows {
  float* p = nullptr;
  bf16* p16 = nullptr;     // optional: receives p rounded to bf16
  float* new_p = nullptr;  // optional: what p becomes goes here, and p is only read
};

struct LowRankConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
};

// One step's scalars: computed once in double, each rounded once to f32.
struct LowRankScalars {
  float one_minus_beta1, beta2, one_minus_beta2, eps;
  float grad_scale;  // clip coefficient; 1 changes no bit
};
LowRankScalars low_rank_scalars(const LowRankConfig& config, double grad_scale);

// lr * lr_scale * sqrt(1 - beta2^step) / (1 - beta1^step): the step size of the methods that add eps to the uncorrected root.
double uncorrected_step_size(double lr, double beta1, double beta2, std::int64_t step);
// 1 - lr * weight_decay, rounded once: multiplies the new weights.
float late_decay_factor(double lr, double weight_decay);

// The refreshes of a projection. updates: those that the matrix has had so far; a tensor without gradient has none in that
// step.
inline bool begins_projection(std::int64_t updates, std::int64_t interval) { return updates % interval == 0; }
inline std::int64_t projection_number(std::int64_t updates, std::int64_t interval) { return updates / interval; }

// Whether the layout has a matrix of this many rows and columns transposed: where it is wider than high. A square one lies as
// it is.
inline bool lies_transposed(std::int64_t rows, std::int64_t columns) { return rows < columns; }

// What a thread needs of f32 memory of its own, in elements, to run a pass on the host: a function of the rank alone.
std::int64_t low_rank_workspace(std::int64_t rank);

}  // namespace strata
