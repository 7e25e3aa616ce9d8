#include "trainer/gpu_setup.h"

#include <algorithm>
#include <utility>

#include "runtime/gpu/cuda.h"

namespace strata {

namespace {

Result<Backend> chosen_backend(const Config& config) {
  using Choice = Config::Device::Choice;
  if (config.device.backend == Choice::host) return Backend::host;
  const Result<int> count = cuda_device_count();
  if (count.ok()) return Backend::cuda;
  if (config.device.backend == Choice::automatic) return Backend::host;
  return Status(Code::invalid_config, "device.backend: is cuda, but " + count.status().message() + "; or set auto or host");
}

}  // namespace

Result<Backend> choose_backend(const Config& config) {
  STRATA_ASSIGN_OR_RETURN(const Backend backend, chosen_backend(config));
  if (backend == Backend::host && config.device.attention == Config::Device::Attention::cudnn)
    return Status(Code::invalid_config, "device.attention: is cudnn, but the host computes; set auto, or device.backend: cuda");
  if (backend == Backend::host && config.nvme.gpu_direct && !config.device.emulate.any())
    return Status(Code::invalid_config,
                  "nvme.gpu_direct: is on, but the host computes, so nothing is on a GPU; set false, or device.backend: cuda");
  return backend;
}

Backend planned_backend(const Config& config) {
  using Choice = Config::Device::Choice;
  if (config.device.backend == Choice::cuda) return Backend::cuda;
  const Result<Backend> chosen = choose_backend(config);
  return chosen.ok() ? *chosen : Backend::host;
}

Result<std::unique_ptr<Device>> make_device(const Config& config, HostThreads threads, int local_rank) {
  STRATA_ASSIGN_OR_RETURN(const Backend backend, choose_backend(config));
  if (backend == Backend::host)
    return std::make_unique<Device>(Backend::host, std::move(threads), Backend::host, config.device.emulate.any());
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<GpuDriver> gpu, make_gpu_driver(config, local_rank));
  return std::make_unique<Device>(std::move(gpu), std::move(threads));
}

std::size_t usable_gpu_memory(const GpuProperties& properties) {
  constexpr std::size_t kContext = std::size_t{1} << 30;
  return properties.memory_bytes - std::min(properties.memory_bytes / 2, kContext + properties.memory_bytes / 50);
}

}  // namespace strata
