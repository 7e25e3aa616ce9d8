#include "optim/gpu_kernels.h"
#include "parallel/gpu_kernels.h"
#include "runtime/gpu/cuda.h"
#include "trainer/gpu_setup.h"

namespace strata {

Result<std::unique_ptr<GpuDriver>> make_gpu_driver(const Config& config, int local_rank) {
  STRATA_ASSIGN_OR_RETURN(const int count, cuda_device_count());
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<GpuDriver> driver,
                          make_cuda_driver({.ordinal = local_rank % count,
                                            .tf32 = config.device.tf32,
                                            .cudnn_attention = config.device.attention == Config::Device::Attention::cudnn}));
  driver->add_table(gpu_cuda::optim_kernel_table());
  driver->add_table(gpu_cuda::parallel_kernel_table());
  return driver;
}

}  // namespace strata
