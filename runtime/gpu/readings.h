// What a GPU's sensors say. A reading that the device does not offer is absent.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace strata {

struct GpuReadings {
  std::optional<double> utilization{};             // share of the last second or so in which a kernel ran, 0 to 1
  std::optional<double> memory_utilization{};      // ... in which device memory was read or written
  std::optional<std::size_t> memory_used_bytes{};  // by every process
  std::optional<double> power_watts{};
  std::optional<int> temperature_celsius{};
  std::optional<int> sm_clock_mhz{};
  std::optional<std::string>
      throttled{};  // why the clocks are below what they could be ("power cap, heat"); empty: they are not
};

}  // namespace strata
