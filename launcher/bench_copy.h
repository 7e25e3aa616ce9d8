// Copy bandwidth as a measurement that other benchmarks interleave with their own, so that both see the same machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launcher/bench_device.h"
#include "launcher/bench_report.h"
#include "trainer/stream_timer.h"
#include "trainer/workbench.h"

namespace strata {

// What to say when `bytes` of arrays are so small that caches of the host are measured instead of memory; else empty, and on a
// GPU, whose caches are not known.
std::string cache_note(const Device& device, std::size_t bytes);

class CopyMeter {
 public:
  // Two buffers of `bytes` (rounded up to whole pages) of the bench's memory, which outlives the meter. Throws StatusError.
  CopyMeter(Workbench& bench, std::size_t bytes);

  // One timed copy of each kind: on the host with each kind of stores, on a GPU by its own copy operation. The first call after
  // the constructor is warm.
  void sample();

  // Bytes read plus bytes written per second, one measurement a kind, without bounds.
  std::vector<Measurement> measurements() const;
  // Makes the kind with the largest median, the copy bandwidth of this memory, the bound of `m`.
  void bound(Measurement& m) const;

 private:
  Workbench& bench_;
  TensorSet tensors_;
  TensorRef from_, to_;
  std::optional<StreamTimer> timer_;          // on a GPU
  std::vector<std::string> kinds_;            // "copy, memcpy"
  std::vector<std::vector<double>> samples_;  // by kind, B/s
};

}  // namespace strata
