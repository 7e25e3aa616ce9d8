// What was planned and what was measured, side by side, at a run's end.
#pragma once

#include <deque>
#include <string>

#include "trainer/metrics.h"
#include "trainer/plan.h"

namespace strata {

class RunReport {
 public:
  // Of one rank, in order. The first two are not counted (they touch memory for the first time), nor more than the last 1000.
  void add(const StepMetrics& metrics);
  // A table: seconds of a step and of each resource in it (medians; planned ones where the plan has a forecast), then the
  // tiers' bytes. Empty when no step counts.
  std::string format(const Plan& plan) const;

 private:
  std::deque<StepMetrics> steps_;
  int seen_ = 0;
};

}  // namespace strata
