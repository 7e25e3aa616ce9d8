// FRUGAL's update of a matrix whose gradient is split by a projection (the authors' Galore classes; optim/frugal.h has the
// rest): what lies in the projection's columns, which are orthonormal, is trained by an optimizer with states; what remains of
// the gradient, by a rule without. Rows do not depend on each other (low_rank.h has the layout), so a step is one pass over
// any cutting into blocks of whole rows. Per row, each operation rounded once:
//   g'[j] = g[j] * grad_scale;  R[k]: from +0, R[k] = fma(g'[j], P[j][k], R[k]) for j ascending
//   D[k] of R[k] and the states:
//     AdamW     m = fma(one_minus_beta1, R - m, m);  v = fma(one_minus_beta2 * R, R, beta2 * v)
//               D = m / fma(sqrt(v), inv_sqrt_bias2, eps)
//     Lion      D = sign(fma(one_minus_beta1, R, beta1 * m));  m = fma(one_minus_beta2, R, beta2 * m)
//     momentum  m = fma(momentum, m, R);  D = m
//   U[j]: from +0, U[j] = fma(D[k], P[j][k], U[j]) for k ascending;  S[j] likewise of R
//   p = fma(-rest, f(g' - S), fma(-step_size, U, p * decay_factor))
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "optim/frugal.h"
#include "optim/low_rank.h"

namespace strata {

enum class DirectionKind : std::uint8_t { adamw, lion, momentum };

struct DirectionScalars {
  DirectionKind kind = DirectionKind::adamw;
  float beta1 = 0.0f, one_minus_beta1 = 1.0f;  // beta1: the momentum, where that is the rule
  float beta2 = 0.0f, one_minus_beta2 = 1.0f;
  float inv_sqrt_bias2 = 1.0f, eps = 0.0f;
  bool states_are_zero = false;  // whatever is stored
};

struct SubspaceScalars {
  DirectionScalars direction;
  float step_size = 0.0f;
  StateFreeScalars rest;  // of the residual; also the decay and the gradient's scale
};
// step.number counts all steps: where the states are in their period follows from it.
SubspaceScalars subspace_scalars(const FrugalConfig& config, const UpdateStep& step, const ParamGroup& group);

// On the calling thread; workspace: low_rank_workspace(block.rank) floats of its own. Rules with one state need no v.
void subspace_update(const FrugalConfig& config, const LowRankBlock& block, const WeightRows& weights, const UpdateStep& step,
                     const ParamGroup& group, std::span<float> workspace);
// The same bits, enqueued; as enqueue_apollo_project, with scratch for two rows.
void enqueue_subspace_update(const FrugalConfig& config, const LowRankBlock& block, const WeightRows& weights,
                             const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue);

// Columns of the projection of a matrix whose shorter dim is `columns`: density times as many, rounded to even as the authors'
// language does, but at least 1.
std::int64_t subspace_rank(std::int64_t columns, double density);

// What Optimizer::rows() gives for choices singular_vectors and random_space.
std::unique_ptr<const RowMethod> make_subspace_method(const FrugalConfig& config, std::uint64_t seed);

}  // namespace strata
