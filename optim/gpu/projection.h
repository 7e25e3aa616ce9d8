// Of projection.cu, for the table in updates.cu.
#pragma once

#include "optim/gpu_kernels.h"
#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

void normal(const kernels::NormalStream& stream, std::int64_t n, float* out, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
