// Times one of many equal operations on a stream. A GPU is given operations faster than it works on them, and waiting for it
// takes tens of microseconds: so many operations lie between two waits that the waits do not count.
#pragma once

#include <functional>
#include <vector>

#include "runtime/stream.h"

namespace strata {

// Seconds that `work` takes.
double seconds_of(const std::function<void()>& work);

class StreamTimer {
 public:
  // `enqueue` gives one operation to `streams`; both outlive the timer. Runs it once to warm up, then finds how many take
  // kSampleSeconds: one, where the first took kLongSeconds. Throws StatusError when an operation fails.
  StreamTimer(std::vector<StreamRef> streams, std::function<void()> enqueue);

  static constexpr double kSampleSeconds = 0.01;
  static constexpr double kLongSeconds = 0.5;
  // Seconds of one operation: the mean of as many as make a sample. Throws like the constructor.
  double sample() const;
  // Operations of a sample.
  int count() const { return count_; }

 private:
  double seconds(int count) const;

  std::vector<StreamRef> streams_;
  std::function<void()> enqueue_;
  int count_ = 1;
};

}  // namespace strata
