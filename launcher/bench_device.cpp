#include "launcher/bench_device.h"

#include "launcher/bench_report.h"
#include "runtime/cores.h"
#include "trainer/gpu_setup.h"

namespace strata {

Result<std::unique_ptr<Device>> make_bench_device(const DeviceOptions& options) {
  using Choice = Config::Device::Choice;
  Config config;
  config.device.backend = options.backend == "cuda"   ? Choice::cuda
                          : options.backend == "host" ? Choice::host
                                                      : Choice::automatic;
  config.device.tf32 = options.tf32;
  return make_device(config, host_threads(options.threads, 0, 1, true), 0);
}

Machine describe_machine(const Device& device) {
  Machine machine = describe_machine();
  machine.backend = to_string(device.backend());
  if (device.backend() != Backend::cuda) return machine;
  machine.gpu = device.gpu().properties().name;
  machine.gpu_memory_bytes = device.gpu().properties().memory_bytes;
  return machine;
}

}  // namespace strata
