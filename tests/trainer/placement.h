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
  double gpu_fraction = 0.0;  // of the records away from the GPU; needs one, or an emulated one
  std::int64_t stride = 0;    // goes before it
  Tier params = Tier::gpu;
  Tier grads = Tier::gpu;
  DType grads_dtype = DType::f32;  // the one that changes bits
  double speculation = 0.0;        // of the records that can, in every step
  double delayed_share = 1.0;
  Tier activations = Tier::gpu;
};

inline Config config_of(const Placement& placement, const std::string& folder, DType compute) {
  Config c = small_config(folder);
  c.zero.stage = placement.stage;
  c.offload.optimizer.device = placement.home;
  c.offload.optimizer.record_size = placement.record_size;
  c.training.recompute = placement.recompute ? Config::Training::Recompute::full : Config::Training::Recompute::none;
  c.precision.compute = compute;
  c.offload.param.device = placement.params;
  c.offload.gradient.device = placement.grads;
  c.offload.activation.device = placement.activations;
  c.precision.gradients = placement.grads_dtype;
  c.offload.optimizer.stride = placement.stride;
  c.offload.optimizer.speculation = placement.speculation;
  c.offload.optimizer.speculate = Config::Offload::Optimizer::When::always;
  c.offload.optimizer.delayed_share = placement.delayed_share;
  if (placement.gpu_fraction > 0.0) c.offload.optimizer.gpu_fraction = placement.gpu_fraction;
  return c;
}

inline std::string describe(const Placement& p) {
  return "stage " + std::to_string(p.stage) + " " + to_string(p.home) + " record " + std::to_string(p.record_size) +
         (p.recompute ? " recompute" : "") + (p.stride > 0 ? " stride " + std::to_string(p.stride) : "") +
         (p.gpu_fraction > 0.0 ? " on the GPU " + std::to_string(p.gpu_fraction) : "") +
         (p.speculation > 0.0 ? " speculating " + std::to_string(p.speculation) : "") +
         (p.delayed_share < 1.0 ? " delayed " + std::to_string(p.delayed_share) : "") +
         (p.params != Tier::gpu ? std::string(" parameters in ") + to_string(p.params) : "") +
         (p.grads != Tier::gpu ? std::string(" gradients in ") + to_string(p.grads) : "") +
         (p.activations != Tier::gpu ? std::string(" activations in ") + to_string(p.activations) : "");
}

}  // namespace strata
