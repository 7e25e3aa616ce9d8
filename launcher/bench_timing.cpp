#include "launcher/bench_timing.h"

#include <algorithm>
#include <cmath>

#include "launcher/bench_report.h"

namespace strata {

StreamTimer::StreamTimer(std::vector<StreamRef> streams, std::function<void()> enqueue)
    : streams_(std::move(streams)), enqueue_(std::move(enqueue)) {
  constexpr int kMost = 1 << 16;
  seconds(1);  // loads code, fills caches, wakes clocks
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
