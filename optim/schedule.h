// Learning-rate schedules as pure functions of the step. Computed in double.
#pragma once

#include <cstdint>

namespace strata {

enum class ScheduleKind { constant, linear, cosine, wsd };

struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double lr = 1e-3;               // peak
  double min_lr = 0.0;            // floor of linear, cosine and wsd decay
  std::int64_t warmup_steps = 0;  // linear from 0: step s < warmup gives lr * s / warmup
  std::int64_t total_steps = 0;   // decay ends here (linear, cosine, wsd)
  std::int64_t decay_steps = 0;   // wsd: length of the last, linear decay
};

// The rate used by update `step`, 1-based. Steps beyond total_steps use the last value.
double learning_rate(const Schedule& schedule, std::int64_t step);

}  // namespace strata
