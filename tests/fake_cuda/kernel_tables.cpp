// The kernels of the CUDA backend are the emulator's: these functions are linked before those of the .cu files, which are then
// left out.
#include "optim/gpu_kernels.h"
#include "parallel/gpu_kernels.h"
#include "runtime/gpu/kernel_table.h"
#include "runtime/gpu/kernels/entries.h"

namespace strata::gpu_cuda {

const GpuKernels& kernel_table();
const GpuKernels& kernel_table() { return gpu_emulated::kernel_table(); }
const OptimGpuKernels& optim_kernel_table() { return gpu_emulated::optim_kernel_table(); }
const ParallelGpuKernels& parallel_kernel_table() { return gpu_emulated::parallel_kernel_table(); }

}  // namespace strata::gpu_cuda
