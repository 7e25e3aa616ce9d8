// The CUDA body of GpuDriver, and what a program may ask about it on a machine that has no GPU, no driver or no CUDA: nothing
// here needs more than this header, and every build has these functions.
#pragma once

#include <memory>
#include <string>

#include "runtime/gpu/driver.h"

namespace strata {

struct CudaOptions {
  int ordinal = 0;               // among the devices this process sees (CUDA_VISIBLE_DEVICES)
  bool tf32 = false;             // f32 products on tensor cores, with operands rounded to 10 bits of mantissa
  bool cudnn_attention = false;  // GpuDriver::attention() is cuDNN's
};

// Whether this build has the CUDA backend.
bool built_with_cuda();

// How many GPUs this process may use. Error unsupported: why there is none (a build without CUDA, no driver, an old one).
Result<int> cuda_device_count();

// Errors: unsupported (see above, a GPU older than sm_80, or no cuDNN where it is asked for), invalid_argument (no such
// ordinal), internal (a CUDA call failed; named).
Result<std::unique_ptr<GpuDriver>> make_cuda_driver(const CudaOptions& options);

}  // namespace strata
