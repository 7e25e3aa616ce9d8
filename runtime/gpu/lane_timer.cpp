#include "runtime/gpu/lane_timer.h"

#include <utility>

namespace strata {
namespace {

// So that a stream that nobody asks for its time keeps no chain of timestamps.
constexpr std::size_t kCollect = 64;
// A comparison of clocks is as good as its round trip is short: on a busy host some are not.
constexpr int kComparisons = 8;
constexpr std::chrono::microseconds kGoodRoundTrip{100};

}  // namespace

GpuLaneTimer::GpuLaneTimer(GpuQueue& queue, TraceRecorder& trace, int lane) : queue_(queue), trace_(trace), lane_(lane) {}

// GPU and host have clocks that drift apart by seconds a day: they are compared when a trace begins, and before that nobody
// looks at places in time, only at durations. An error of the queue is found by whoever waits for its work.
void GpuLaneTimer::compare_clocks() {
  auto best = TraceClock::duration::max();
  for (int i = 0; i < kComparisons && best > kGoodRoundTrip; ++i) {
    const auto before = TraceClock::now();
    std::shared_ptr<GpuTimestamp> point = queue_.timestamp();
    (void)queue_.mark()->wait();
    const auto after = TraceClock::now();
    if (after - before >= best) continue;
    best = after - before;
    anchor_ = std::move(point);
    anchor_time_ = before + best / 2;
  }
}

void GpuLaneTimer::open(const char* name) {
  open_name_ = name;
  open_begin_ = queue_.timestamp();
  if (!anchor_) {
    anchor_ = open_begin_;
    anchor_time_ = TraceClock::now();
  }
}

void GpuLaneTimer::close() {
  if (!open_begin_) return;
  pending_.push_back({open_name_, std::move(open_begin_), queue_.timestamp()});
  open_begin_.reset();
  if (pending_.size() >= kCollect) collect_locked();
}

void GpuLaneTimer::begin(const char* name) {
  const std::lock_guard lock(mutex_);
  const bool recording = trace_.enabled();
  if (recording != recording_) {
    close();
    if (recording) {
      (void)queue_.mark()->wait();
      collect_locked();  // before their anchor changes
      compare_clocks();
    }
    recording_ = recording;
  }
  if (!open_begin_) open(recording ? name : "busy");
}

void GpuLaneTimer::end() {
  const std::lock_guard lock(mutex_);
  if (recording_) close();
}

void GpuLaneTimer::pause() {
  const std::lock_guard lock(mutex_);
  close();
}

void GpuLaneTimer::collect() {
  const std::lock_guard lock(mutex_);
  collect_locked();
}

// A finished span becomes the next anchor: the differences stay small, as the GPU tells them in single precision.
void GpuLaneTimer::collect_locked() {
  const auto after = [](TraceClock::time_point time, double seconds) {
    return time + std::chrono::duration_cast<TraceClock::duration>(std::chrono::duration<double>(seconds));
  };
  while (!pending_.empty() && pending_.front().end->is_complete()) {
    const Span span = std::move(pending_.front());
    pending_.pop_front();
    const auto begin = after(anchor_time_, span.begin->seconds_since(*anchor_));
    const auto end = after(begin, span.end->seconds_since(*span.begin));
    trace_.span(lane_, span.name, begin, end);
    anchor_ = span.end;
    anchor_time_ = end;
  }
}

}  // namespace strata
