// Of low_rank.cu, for the table in updates.cu.
#pragma once

#include "optim/gpu_kernels.h"
#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

void apollo_project(const LowRankBlock& block, const LowRankScalars& scalars, const RowResults& results, GpuQueue& queue);
void apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars,
                  GpuQueue& queue);
void galore(const LowRankBlock& block, const WeightRows& weights, const GaloreScalars& scalars, GpuQueue& queue);
void subspace(const LowRankBlock& block, const WeightRows& weights, const SubspaceScalars& scalars, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
