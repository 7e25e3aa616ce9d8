// APOLLO and APOLLO-Mini (Zhu et al. 2024, arXiv 2412.05270, algorithm 1), with the semantics of the authors' code, package
// apollo-torch 1.0.3: the projected moments say only how long a step each row (or the matrix) takes; its direction is the
// gradient's. Parameters that are not projected: TransformersAdamW with the same betas and eps.
//
// A step of one matrix (low_rank.h has the layout), each pass over any cutting into blocks of whole rows:
//   1. apollo_project: moments, and per row its factor s and three sums of squares
//   2. apollo_scale of the rows' sums: the norm-growth limiter; one number for the matrix
//   3. apollo_apply: the weights
// Where this is not the paper: the code multiplies by sqrt(scale); a square matrix is projected as a tall one; the bias
// correction is part of the step size, so the limiter sees norms without it; decay is of the new weights.
#pragma once

#include <cstdint>
#include <span>

#include "optim/low_rank.h"
#include "optim/optimizer.h"

namespace strata {

enum class ApolloScaling {
  channel,  // a factor for each index of the longer dim: APOLLO
  tensor,   // one for the matrix: APOLLO-Mini, which has rank 1
};

struct ApolloConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  ApolloScaling scaling = ApolloScaling::channel;
  double scale = 1.0;        // updates are multiplied by its root
  bool scale_front = false;  // before the limiter, not after it
  bool limit_growth = true;  // the norm-growth limiter
  double norm_floor = 0.0;   // the limiter takes a smaller norm for this one: without it a first gradient of zero holds the
                             // matrix back for 1,400 steps. 0: as the authors' code
};

// What the first pass leaves of each row.
struct RowResults {
  float* s = nullptr;           // |N| / (|R| + 1e-8), the norms in f64, rounded once
  double* g_squares = nullptr;  // of g'
  double* r_squares = nullptr;  // of R
  double* n_squares = nullptr;  // of N
};

// Sums over the rows of a matrix.
struct ApolloSums {
  double update = 0.0;  // (s |g'|)^2
  double g = 0.0, r = 0.0, n = 0.0;
};
// Adds rows to them, in their order: any cutting that keeps the order gives the same bits, and another order may not.
void add_rows(const RowResults& results, std::int64_t rows, ApolloSums& sums);

// What a matrix keeps beside its moments; a checkpoint has it. A step that is skipped (an overflow) leaves it alone.
struct ApolloMatrix {
  double limiter_norm = -1.0;  // of the last update, as the limiter left it; negative: there was none
};

// What the update of the matrix is multiplied by.
struct ApolloScale {
  double factor = 1.0;  // of the limiter and the scale, and with `tensor` of the matrix
  double tensor = 0.0;  // |N| / (|R| + 1e-8) of the matrix
};
// Replaces matrix.limiter_norm. In double throughout, so that a norm below the least f32 still counts.
ApolloScale apollo_scale(const ApolloConfig& config, const ApolloSums& sums, ApolloMatrix& matrix);

// First pass. On the calling thread; workspace: low_rank_workspace(block.rank) floats of its own. results has room for
// block.rows.
void apollo_project(const ApolloConfig& config, const LowRankBlock& block, double grad_scale, const RowResults& results,
                    std::span<float> workspace);
// The same bits, enqueued; the arrays live until it is done. Takes the queue's scratch for R, as many rows at a time as it
// holds; a scratch that does not hold one fails the queue.
void enqueue_apollo_project(const ApolloConfig& config, const LowRankBlock& block, double grad_scale, const RowResults& results,
                            const GpuDriver& driver, GpuQueue& queue);

// What the last pass multiplies rows by.
struct ApplyScalars {
  double step;         // of the matrix: step size times factor
  float decay_factor;  // 1 - lr * weight_decay; 1 changes no bit
  float grad_scale;
};
ApplyScalars apollo_apply_scalars(const ApolloConfig& config, const ApolloScale& scale, const UpdateStep& step,
                                  const ParamGroup& group);

// Last pass, element by element: a = step * s of the row, in f64 and rounded once;
//   p = fma(-a, g * grad_scale, p) * decay_factor.
// s: of the block's rows for channel-wise scaling, null for the tensor's, where it counts as 1.
// Of the block only rows, columns and the gradient matter.
void apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars);
void enqueue_apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars,
                          const GpuDriver& driver, GpuQueue& queue);

}  // namespace strata
