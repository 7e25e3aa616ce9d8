#include "trainer/stream_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace strata {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

StreamTimer::StreamTimer(std::vector<StreamRef> streams, std::function<void()> enqueue)
    : streams_(std::move(streams)), enqueue_(std::move(enqueue)) {
  constexpr int kMost = 1 << 16;
  if (seconds(1) >= kLongSeconds) return;  // loads code, fills caches, wakes clocks
  for (double took = seconds(1); took < kSampleSeconds && count_ < kMost; took = seconds(count_)) {
    const double wanted = 1.2 * count_ * kSampleSeconds / std::max(took, 1e-7);
    count_ = static_cast<int>(std::clamp(std::ceil(wanted), count_ + 1.0, std::min(16.0 * count_, double{kMost})));
  }
}

double StreamTimer::sample() const { return seconds(count_) / count_; }

double StreamTimer::seconds(int count) const {
  Status status;
  const double took = seconds_of([&] {
    for (int i = 0; i < count; ++i) enqueue_();
    for (const StreamRef stream : streams_) {
      const Status reached = stream.synchronize();
      if (status.ok()) status = reached;
    }
  });
  throw_if_error(status);
  return took;
}

}  // namespace strata
