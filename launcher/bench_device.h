// The processor that a benchmark runs on, the same for the host and a GPU.
#pragma once

#include <memory>
#include <string>

#include "launcher/machine.h"
#include "runtime/stream.h"

namespace strata {

struct DeviceOptions {
  std::string backend = "auto";  // auto, host, cuda
  bool tf32 = false;             // on cuda: products of f32 on tensor cores
  int threads = 0;               // of the host; 0: all cores this process may use
};
// Error invalid_config: cuda was asked for and there is none, with the reason.
Result<std::unique_ptr<Device>> make_bench_device(const DeviceOptions& options);
// describe_machine() with the GPU, where `device` is one.
Machine describe_machine(const Device& device);

}  // namespace strata
