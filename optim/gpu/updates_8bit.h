// Of updates_8bit.cu, for the table in updates.cu.
#pragma once

#include "optim/gpu_kernels.h"
#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

void adamw_8bit(const UpdateSlice& slice, const AdamWScalars& scalars, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
