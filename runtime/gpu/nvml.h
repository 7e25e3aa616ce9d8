// The sensors of NVIDIA GPUs through NVML, a library of the driver that is loaded at run time; no header of CUDA is needed.
#pragma once

#include <memory>
#include <string>

#include "runtime/gpu/readings.h"
#include "runtime/status.h"

namespace strata {

// One device. Any thread, one at a time.
class Nvml {
 public:
  // pci_bus_id: as cudaDeviceGetPCIBusId writes it ("0000:3B:00.0"). Errors unsupported: no such library, an old one; internal:
  // a call that failed, named, with the library's own words.
  static Result<Nvml> open(const std::string& pci_bus_id, const std::string& library = "libnvidia-ml.so.1");
  Nvml(Nvml&&) noexcept;
  Nvml& operator=(Nvml&&) noexcept;
  ~Nvml();

  // Error internal: the device does not answer at all (it has fallen off the bus).
  Result<GpuReadings> read() const;

 private:
  class Impl;
  explicit Nvml(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
