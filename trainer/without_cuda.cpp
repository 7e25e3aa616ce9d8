// Compiled where the CUDA backend is not (cmake/StrataCuda.cmake).
#include "runtime/gpu/cuda.h"
#include "trainer/gpu_setup.h"

namespace strata {

Result<std::unique_ptr<GpuDriver>> make_gpu_driver(const Config& /*config*/, int /*local_rank*/) {
  return make_cuda_driver({});
}

}  // namespace strata
