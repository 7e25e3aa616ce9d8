// Copy bandwidth as a measurement that other benchmarks interleave with their own, so that both see the same machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/bench_report.h"
#include "launcher/stream_copy.h"
#include "runtime/arena.h"
#include "runtime/thread_pool.h"

namespace strata {

// What to say when `bytes` of arrays are so small that caches are measured instead of memory; else empty.
std::string cache_note(std::size_t bytes);

class CopyMeter {
 public:
  // Budget that the constructor needs.
  static std::size_t arena_bytes(std::size_t bytes);
  // Two buffers of `bytes` (rounded up to whole pages) from `arena`, touched. Throws StatusError (out_of_budget).
  CopyMeter(TierArena& arena, std::size_t bytes);

  // One timed copy with each kind of stores; a warm-up before the first sample is the caller's (discard()).
  void sample(ThreadPool& pool);
  void discard();

  // Bytes read plus bytes written per second, one measurement a kind, without bounds.
  std::vector<Measurement> measurements() const;
  // The kind with the largest median: the machine's copy bandwidth.
  Measurement best() const;

 private:
  Buffer from_, to_;
  std::size_t bytes_;
  std::vector<std::vector<double>> samples_;  // by kind, B/s
};

}  // namespace strata
