#include "runtime/kernels/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "runtime/kernels/peak_table.h"

namespace strata::kernels {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 6;
constexpr double kSecondsPerRun = 0.02;

// One task a thread; the sink keeps the compiler from dropping the loops.
double seconds_of(ThreadPool& pool, float (*loop)(std::int64_t), std::int64_t rounds) {
  std::atomic<float> sink = 0.0f;
  const auto begin = Clock::now();
  pool.parallel_for(pool.threads(), [&](std::int64_t) { sink.store(loop(rounds), std::memory_order_relaxed); });
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double gflops(ThreadPool& pool, float (*loop)(std::int64_t), double flop_per_round) {
  if (loop == nullptr) return 0.0;
  std::int64_t rounds = 1000;
  double seconds = seconds_of(pool, loop, rounds);
  for (; seconds < kSecondsPerRun; seconds = seconds_of(pool, loop, rounds)) rounds *= 2;
  for (int i = 1; i < kRepeats; ++i) seconds = std::min(seconds, seconds_of(pool, loop, rounds));
  return flop_per_round * static_cast<double>(rounds) * pool.threads() / seconds / 1e9;
}

}  // namespace

PeakRates measure_peak(ThreadPool& pool) {
  const PeakTable& table = peak_table();
  return {.f32_gflops = gflops(pool, table.f32, table.f32_flop_per_round),
          .bf16_gflops = gflops(pool, table.bf16, table.bf16_flop_per_round)};
}

}  // namespace strata::kernels
