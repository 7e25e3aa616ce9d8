// Where a run's states live and how they are cut: what must change no bit of its result.
#pragma once

#include <string>

#include "tests/trainer/fixture.h"

namespace strata {

struct Placement {
  int stage;
  Tier home;
  std::int64_t record_size;
  bool recompute;
};

inline Config config_of(const Placement& placement, const std::string& folder, DType compute) {
  Config c = small_config(folder);
  c.zero.stage = placement.stage;
  c.offload.optimizer.device = placement.home;
  c.offload.optimizer.record_size = placement.record_size;
  c.training.recompute = placement.recompute ? Config::Training::Recompute::full : Config::Training::Recompute::none;
  c.precision.compute = compute;
  return c;
}

inline std::string describe(const Placement& p) {
  return "stage " + std::to_string(p.stage) + " " + to_string(p.home) + " record " + std::to_string(p.record_size) +
         (p.recompute ? " recompute" : "");
}

}  // namespace strata
