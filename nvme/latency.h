// How long transfers take: counts in buckets that are a quarter of a power of two wide, so that a percentile is known to about
// 20 % however it is distributed.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace strata {

struct LatencySummary {
  std::uint64_t count = 0;  // transfers
  std::uint64_t bytes = 0;
  double p50 = 0, p99 = 0, max = 0;  // seconds; percentiles are rounded up to the bound of a bucket
};

class LatencyHistogram {
 public:
  // From any thread, without a lock.
  void add(std::chrono::nanoseconds latency, std::size_t bytes);
  // What was added since the last take(); every transfer is in exactly one summary. One thread at a time.
  LatencySummary take();

 private:
  static constexpr std::size_t kBuckets = 4 * 32;  // the last begins at 7600 s
  static std::size_t bucket_of(std::uint64_t nanoseconds);
  static double upper_bound(std::size_t bucket);  // seconds

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> max_{0};  // nanoseconds
};

}  // namespace strata
