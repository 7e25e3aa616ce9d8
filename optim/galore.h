// GaLore (Zhao et al. 2024, arXiv 2403.03507, algorithm 2), with the semantics of the authors' code, package galore-torch 1.0:
// Adam in the projected space, its update brought back. Parameters that are not projected: TransformersAdamW with the same
// betas and eps.
//
// Rows do not depend on each other (low_rank.h has the layout), so a step is one pass over any cutting into blocks of whole
// rows. Per row, after low_rank.h:
//   U[j]: from +0, U[j] = fma(N[k], P[j][k], U[j]) for k ascending;  p = fma(-step_size, U, p) * decay_factor
// Where this is not the paper: a square matrix is projected as a tall one; the bias correction is part of the step size;
// moments stay in the old basis when the projection changes.
#pragma once

#include <span>

#include "optim/low_rank.h"
#include "optim/optimizer.h"

namespace strata {

struct GaloreConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double scale = 0.25;
};

struct GaloreScalars {
  LowRankScalars moments;
  float step_size;     // lr * scale * sqrt(1 - beta2^step) / (1 - beta1^step)
  float decay_factor;  // 1 - lr * weight_decay; 1 changes no bit
};
GaloreScalars galore_scalars(const GaloreConfig& config, const UpdateStep& step, const ParamGroup& group);

// On the calling thread; workspace: low_rank_workspace(block.rank) floats of its own. step.number counts the matrix's own
// updates.
void galore_update(const GaloreConfig& config, const LowRankBlock& block, const WeightRows& weights, const UpdateStep& step,
                   const ParamGroup& group, std::span<float> workspace);
// The same bits, enqueued; as enqueue_apollo_project.
void enqueue_galore_update(const GaloreConfig& config, const LowRankBlock& block, const WeightRows& weights,
                           const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue);

}  // namespace strata
