// The GPU bodies of this folder's kernels: a table of the driver (GpuDriver::table<OptimGpuKernels>()), compiled like
// runtime/gpu/kernel_table.h's: by nvcc into gpu_cuda and over the emulator into gpu_emulated.
#pragma once

#include "optim/adamw.h"
#include "optim/adamw_transformers.h"
#include "optim/apollo.h"
#include "optim/frugal.h"
#include "optim/frugal_subspace.h"
#include "optim/galore.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "optim/state_noise.h"
#include "runtime/kernels/normal_table.h"

namespace strata {

class GpuQueue;

// FRUGAL's, as FrugalKernels.
struct FrugalGpuKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue);
  void (*momentum)(const UpdateSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest,
                   GpuQueue& queue);
};

// As Bf16StateKernels.
struct Bf16StateGpuKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars, const StateNoise& noise, GpuQueue& queue);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars, const StateNoise& noise, GpuQueue& queue);
  void (*momentum)(const UpdateSlice& slice, const SgdScalars& scalars, const StateNoise& noise, GpuQueue& queue);
  void (*nesterov)(const UpdateSlice& slice, const SgdScalars& scalars, const StateNoise& noise, GpuQueue& queue);
};

// Each enqueues an update on device memory and returns: the bits of UpdateKernels, LowRankKernels and FrugalKernels. The
// slice's arrays live until it is done.
struct OptimGpuKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars, GpuQueue& queue);
  void (*adamw_transformers)(const UpdateSlice& slice, const TransformersAdamWScalars& scalars, GpuQueue& queue);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars, GpuQueue& queue);
  void (*sgd)(const UpdateSlice& slice, const SgdScalars& scalars, GpuQueue& queue);
  void (*momentum)(const UpdateSlice& slice, const SgdScalars& scalars, GpuQueue& queue);
  void (*nesterov)(const UpdateSlice& slice, const SgdScalars& scalars, GpuQueue& queue);
  Bf16StateGpuKernels bf16_states;
  // gpu/updates_8bit.cu
  void (*adamw_8bit)(const UpdateSlice& slice, const AdamWScalars& scalars, GpuQueue& queue);
  // gpu/low_rank.cu
  void (*apollo_project)(const LowRankBlock& block, const LowRankScalars& scalars, const RowResults& results, GpuQueue& queue);
  void (*apollo_apply)(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars,
                       GpuQueue& queue);
  void (*galore)(const LowRankBlock& block, const WeightRows& weights, const GaloreScalars& scalars, GpuQueue& queue);
  void (*subspace)(const LowRankBlock& block, const WeightRows& weights, const SubspaceScalars& scalars, GpuQueue& queue);
  // gpu/projection.cu: values [0, n) of Philox::normal().
  void (*normal)(const kernels::NormalStream& stream, std::int64_t n, float* out, GpuQueue& queue);
  FrugalGpuKernels frugal;  // gpu/frugal.cu
};

namespace gpu_cuda {
const OptimGpuKernels& optim_kernel_table();
}
namespace gpu_emulated {
const OptimGpuKernels& optim_kernel_table();
}

}  // namespace strata
