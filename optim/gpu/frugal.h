// Of frugal.cu, for the table in updates.cu.
#pragma once

#include "optim/gpu_kernels.h"
#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

void frugal_adamw(const UpdateSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue);
void frugal_lion(const UpdateSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue);
void frugal_momentum(const UpdateSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest,
                     GpuQueue& queue);

inline constexpr FrugalGpuKernels kFrugalKernels = {.adamw = frugal_adamw, .lion = frugal_lion, .momentum = frugal_momentum};

}  // namespace strata::STRATA_GPU
