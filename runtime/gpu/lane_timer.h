// How long a GPU works for one stream: spans of a trace lane, by timestamps in the stream's queue.
//
// While nothing is traced, what is enqueued between two waits of the queue is one span: a few timestamps a step, and time in
// which the GPU lacked the next launch counts as busy. While a trace is recorded, each operation is a span.
#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include "runtime/gpu/driver.h"
#include "runtime/trace.h"

namespace strata {

// Thread-safe; the queue is the caller's to use at the time of a call, as always. Both references outlive it.
class GpuLaneTimer {
 public:
  GpuLaneTimer(GpuQueue& queue, TraceRecorder& trace, int lane);

  // Around what is given to the queue as one operation. `name` outlives the recorder (a literal). When recording has begun, the
  // first call waits for the queue once, to compare the GPU's clock with the host's.
  void begin(const char* name);
  void end();
  // The queue will wait, or somebody wants to know when it has come so far: the span ends here.
  void pause();
  // Gives the spans that the GPU has finished to the recorder, oldest first.
  void collect();

 private:
  struct Span {
    const char* name;
    std::shared_ptr<GpuTimestamp> begin, end;
  };
  void compare_clocks();
  void open(const char* name);
  void close();
  void collect_locked();

  GpuQueue& queue_;
  TraceRecorder& trace_;
  const int lane_;
  std::mutex mutex_;
  bool recording_ = false;  // as begin() last saw it
  // A point of the GPU's time and what the host's clock said then.
  std::shared_ptr<GpuTimestamp> anchor_;
  TraceClock::time_point anchor_time_;
  const char* open_name_ = nullptr;
  std::shared_ptr<GpuTimestamp> open_begin_;  // null: no span is open
  std::deque<Span> pending_;
};

}  // namespace strata
