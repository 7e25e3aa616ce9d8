// Compiled where the CUDA backend is not (cmake/StrataCuda.cmake).
#include "runtime/gpu/cuda.h"

namespace strata {
namespace {

Status no_cuda() { return {Code::unsupported, "this build has no CUDA backend; build with the preset cuda-release"}; }

}  // namespace

bool built_with_cuda() { return false; }
Result<int> cuda_device_count() { return no_cuda(); }
Result<std::unique_ptr<GpuDriver>> make_cuda_driver(const CudaOptions& /*options*/) { return no_cuda(); }

}  // namespace strata
