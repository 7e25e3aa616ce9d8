// The CUDA backend of a program, served by the emulator: linked before the libraries, whose bodies of these functions are then
// left out. So `strata_emulated` is the whole program on a GPU, where there is none.
#include "runtime/gpu/cuda.h"
#include "tests/emulator/emulated_driver.h"
#include "trainer/gpu_setup.h"

namespace strata {

bool built_with_cuda() { return true; }

Result<int> cuda_device_count() { return 1; }

Result<std::unique_ptr<GpuDriver>> make_cuda_driver(const CudaOptions& /*options*/) {
  return std::unique_ptr<GpuDriver>(gpu_emulated::make_emulated_driver());
}

Result<std::unique_ptr<GpuDriver>> make_gpu_driver(const Config& /*config*/, int /*local_rank*/) {
  return make_cuda_driver({});
}

}  // namespace strata
