// The GPU bodies of this folder's kernels: a table of the driver (GpuDriver::table<OptimGpuKernels>()), compiled like
// runtime/gpu/kernel_table.h's: by nvcc into gpu_cuda and over the emulator into gpu_emulated.
#pragma once

#include "optim/adamw.h"

namespace strata {

class GpuQueue;

struct OptimGpuKernels {
  // Enqueues adamw_update on device memory and returns: the same bits. The slice's arrays live until it is done.
  void (*adamw_update)(const AdamWSlice& slice, const AdamWScalars& scalars, GpuQueue& queue);
};

namespace gpu_cuda {
const OptimGpuKernels& optim_kernel_table();
}
namespace gpu_emulated {
const OptimGpuKernels& optim_kernel_table();
}

}  // namespace strata
