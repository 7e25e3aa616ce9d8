#include "nvme/latency.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace strata {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

TEST(LatencyHistogram, NothingIsAllZeros) {
  LatencyHistogram histogram;
  const LatencySummary summary = histogram.take();
  EXPECT_EQ(summary.count, 0U);
  EXPECT_EQ(summary.bytes, 0U);
  EXPECT_EQ(summary.p50, 0.0);
  EXPECT_EQ(summary.p99, 0.0);
  EXPECT_EQ(summary.max, 0.0);
}

TEST(LatencyHistogram, OneValueIsEveryPercentile) {
  for (const std::int64_t ns : {0L, 1L, 1023L, 1024L, 4095L, 4096L, 999'999L, 1'000'000'000L, 90'000'000'000L}) {
    LatencyHistogram histogram;
    histogram.add(nanoseconds(ns), 7);
    const LatencySummary summary = histogram.take();
    EXPECT_EQ(summary.count, 1U);
    EXPECT_EQ(summary.bytes, 7U);
    EXPECT_DOUBLE_EQ(summary.max, static_cast<double>(ns) * 1e-9);
    EXPECT_EQ(summary.p50, summary.max) << "a percentile is never above the largest value";
    EXPECT_EQ(summary.p99, summary.max);
  }
}

TEST(LatencyHistogram, PercentilesAreRoundedUpByAtMostAQuarter) {
  for (const int scale : {5, 100, 3333}) {
    LatencyHistogram histogram;
    for (int i = 1; i <= 1000; ++i) histogram.add(microseconds(i * scale), 1);
    const LatencySummary summary = histogram.take();
    EXPECT_EQ(summary.count, 1000U);
    for (const auto& [found, exact] : {std::pair{summary.p50, 500}, std::pair{summary.p99, 990}}) {
      const double seconds = exact * scale * 1e-6;
      EXPECT_GE(found, seconds);
      EXPECT_LE(found, 1.26 * seconds);
    }
    EXPECT_DOUBLE_EQ(summary.max, 1000 * scale * 1e-6);
  }
}

TEST(LatencyHistogram, TakeBeginsAnew) {
  LatencyHistogram histogram;
  histogram.add(microseconds(1000), 1);
  (void)histogram.take();
  histogram.add(microseconds(10), 2);
  const LatencySummary summary = histogram.take();
  EXPECT_EQ(summary.count, 1U);
  EXPECT_EQ(summary.bytes, 2U);
  EXPECT_DOUBLE_EQ(summary.max, 10e-6);
}

TEST(LatencyHistogram, EveryTransferIsInOneSummary) {
  constexpr int kThreads = 3, kEach = 20000;
  LatencyHistogram histogram;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) histogram.add(microseconds(i), 3);
    });
  }
  std::uint64_t count = 0, bytes = 0;
  const auto take = [&] {
    const LatencySummary summary = histogram.take();
    count += summary.count;
    bytes += summary.bytes;
  };
  for (int i = 0; i < 100; ++i) take();
  for (std::thread& thread : threads) thread.join();
  take();
  EXPECT_EQ(count, std::uint64_t{kThreads} * kEach);
  EXPECT_EQ(bytes, 3 * count);
}

}  // namespace
}  // namespace strata
