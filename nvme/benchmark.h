// Measures what one path can do with the access pattern of training: large aligned requests at the engine's queue depth.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

// Bytes per second of one traffic pattern.
struct NvmeRate {
  double median = 0;
  std::vector<double> samples;  // one a repeat, in the order measured
  LatencySummary latency;       // of its requests; of mixed traffic, of the writes
};

struct NvmeRates {
  IoEngineOptions options;
  NvmeRate read;
  NvmeRate write;
  NvmeRate mixed;  // reads and writes in equal parts at the same time; both directions added
  std::string engine;
  std::vector<std::string> notes;  // what the user should hear: an engine that fell back, a file system without direct I/O
  bool direct = false;             // false: the page cache was measured, not the device
  std::size_t alignment = 0;       // of offsets and sizes, bytes
  std::size_t max_transfer = 0;    // largest request the device takes in one piece, bytes; 0: unknown
};

// `folder` is where a scratch file of `bytes` (>= 1 MiB, rounded up to whole MiB) is created and removed again; larger than the
// device's cache for honest numbers. For each of `settings` in turn, each of read, write and mixed gets about `seconds`, cut
// into `repeats` (>= 1) timed samples; the file is written once before the first of them. window: bytes of memory that requests
// use in turn, at least 1 MiB: more than a cache holds, as the windows of records are, or, for comparisons with a program that
// has as many buffers as requests, no more than those. Blocking; any thread.
Result<std::vector<NvmeRates>> measure_nvme(const std::string& folder, std::size_t bytes,
                                            std::span<const IoEngineOptions> settings, double seconds, int repeats = 11,
                                            std::size_t window = std::size_t{64} << 20);

}  // namespace strata
