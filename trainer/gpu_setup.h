// Which processor a run uses, from config.device, and the driver of a rank's GPU.
#pragma once

#include <cstddef>
#include <memory>

#include "runtime/gpu/driver.h"
#include "runtime/stream.h"
#include "trainer/config.h"

namespace strata {

// host or cuda. auto: cuda where this process sees a GPU. Error invalid_config: cuda was asked for and there is none, with the
// reason.
Result<Backend> choose_backend(const Config& config);
// The same for a plan, which needs no GPU: cuda when it is asked for.
Backend planned_backend(const Config& config);

// The driver of GPU local_rank modulo the GPUs that the process sees, with the kernels of every folder.
Result<std::unique_ptr<GpuDriver>> make_gpu_driver(const Config& config, int local_rank);

// What a rank computes with, as config.device says; `threads` of the host. Errors: as the two above.
Result<std::unique_ptr<Device>> make_device(const Config& config, HostThreads threads, int local_rank);

// Bytes of the gpu tier where config.memory.gpu says nothing: what the device has, less a part for the CUDA context, the code
// and the libraries' own memory.
std::size_t usable_gpu_memory(const GpuProperties& properties);

}  // namespace strata
