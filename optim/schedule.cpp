#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace strata {
namespace {

// Share of the decay phase [begin, end] that lies behind `step`, in [0, 1].
double progress(std::int64_t step, std::int64_t begin, std::int64_t end) {
  if (end <= begin) return step >= end ? 1.0 : 0.0;
  return std::clamp(static_cast<double>(step - begin) / static_cast<double>(end - begin), 0.0, 1.0);
}

}  // namespace

double learning_rate(const Schedule& s, std::int64_t step) {
  if (step < s.warmup_steps) return s.lr * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  // std::lerp is exact at both ends: the rate is the peak before the decay and the floor after it, to the bit.
  switch (s.kind) {
    case ScheduleKind::constant: return s.lr;
    case ScheduleKind::linear: return std::lerp(s.lr, s.min_lr, progress(step, s.warmup_steps, s.total_steps));
    case ScheduleKind::cosine: {
      const double angle = std::numbers::pi * progress(step, s.warmup_steps, s.total_steps);
      return std::lerp(s.min_lr, s.lr, 0.5 * (1.0 + std::cos(angle)));
    }
    case ScheduleKind::wsd: {
      const std::int64_t decay_begin = std::max(s.warmup_steps, s.total_steps - s.decay_steps);
      return std::lerp(s.lr, s.min_lr, progress(step, decay_begin, s.total_steps));
    }
  }
  return s.lr;
}

}  // namespace strata
