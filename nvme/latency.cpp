#include "nvme/latency.h"

#include <algorithm>
#include <bit>

namespace strata {
namespace {

constexpr unsigned kUnitShift = 10;  // buckets are counted in units of 1024 ns

}  // namespace

std::size_t LatencyHistogram::bucket_of(std::uint64_t nanoseconds) {
  const std::uint64_t units = nanoseconds >> kUnitShift;
  if (units < 4) return static_cast<std::size_t>(units);
  const auto exponent = static_cast<std::size_t>(std::bit_width(units)) - 1;
  return std::min(kBuckets - 1, 4 * (exponent - 1) + static_cast<std::size_t>(units >> (exponent - 2) & 3));
}

double LatencyHistogram::upper_bound(std::size_t bucket) {
  std::uint64_t units = bucket + 1;
  if (bucket >= 4) units = static_cast<std::uint64_t>(5 + bucket % 4) << (bucket / 4 - 1);
  return static_cast<double>(units << kUnitShift) * 1e-9;
}

void LatencyHistogram::add(std::chrono::nanoseconds latency, std::size_t bytes) {
  const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(0, latency.count()));
  counts_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(bytes, std::memory_order_relaxed);
  for (std::uint64_t max = max_.load(std::memory_order_relaxed); ns > max;) {
    if (max_.compare_exchange_weak(max, ns, std::memory_order_relaxed)) break;
  }
}

LatencySummary LatencyHistogram::take() {
  std::array<std::uint64_t, kBuckets> counts{};
  LatencySummary summary;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    counts[i] = counts_[i].exchange(0, std::memory_order_relaxed);
    summary.count += counts[i];
  }
  summary.bytes = bytes_.exchange(0, std::memory_order_relaxed);
  summary.max = static_cast<double>(max_.exchange(0, std::memory_order_relaxed)) * 1e-9;
  const auto percentile = [&](std::uint64_t hundredths) {
    const std::uint64_t wanted = (summary.count * hundredths + 99) / 100;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += counts[i];
      if (seen >= wanted) return std::min(upper_bound(i), summary.max);
    }
    return summary.max;
  };
  if (summary.count > 0) {
    summary.p50 = percentile(50);
    summary.p99 = percentile(99);
  }
  return summary;
}

}  // namespace strata
