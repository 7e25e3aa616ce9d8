// What works during a step, each its own in-order queue, and how fast each is.
#pragma once

#include <array>
#include <cstddef>

namespace strata {

enum class Resource { compute, gpu_to_cpu, cpu_to_gpu, cpu_update, gpu_update, nvme_read, nvme_write };
inline constexpr std::size_t kResources = 7;
const char* to_string(Resource resource);

// Work a second: bytes for copies and NVMe, parameters for updates, forwards of one unit and micro-batch for compute.
// 0: unknown, or too fast to matter.
struct Rates {
  std::array<double, kResources> per_second{};
  double& operator[](Resource r) { return per_second[static_cast<std::size_t>(r)]; }
  double operator[](Resource r) const { return per_second[static_cast<std::size_t>(r)]; }
  double seconds(Resource r, double amount) const { return (*this)[r] > 0.0 ? amount / (*this)[r] : 0.0; }
  bool any() const {
    for (const double rate : per_second)
      if (rate > 0.0) return true;
    return false;
  }
  bool operator==(const Rates&) const = default;
};
// Of each rate the smaller one, or the one that is known.
inline Rates smaller(const Rates& a, const Rates& b) {
  Rates least = a;
  for (std::size_t r = 0; r < kResources; ++r) {
    const double other = b.per_second[r];
    if (other > 0.0 && (least.per_second[r] == 0.0 || other < least.per_second[r])) least.per_second[r] = other;
  }
  return least;
}

}  // namespace strata
