// Records what ran when, per lane (a stream, an I/O engine, a host thread), as Chrome / Perfetto trace JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/status.h"

namespace strata {

using TraceClock = std::chrono::steady_clock;

// Thread-safe. Off until start(): then a span costs one lock and one push.
class TraceRecorder {
 public:
  TraceRecorder();
  ~TraceRecorder();
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  void start();
  void stop();
  bool enabled() const;
  // A lane is a row of the picture. Returns its id; the same name gives the same lane.
  int lane(const std::string& name);
  // `name` must outlive the recorder (a literal). When off, only the busy time is counted.
  void span(int lane, const char* name, TraceClock::time_point begin, TraceClock::time_point end);
  // Seconds of all spans of the lane so far, whether tracing was on or not: the busy time of a resource.
  double busy_seconds(int lane) const;
  // process: shown as the process of every lane ("rank 0"), pid: its number in the file.
  Status write_json(const std::string& path, const std::string& process, int pid) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
