// Stochastic gradient descent with PyTorch's semantics (torch.optim.SGD, dampening 0): weight decay is added to the gradient.
#pragma once

#include "optim/optimizer.h"

namespace strata {

struct SgdConfig {
  double momentum = 0.0;  // 0: no state
  bool nesterov = false;  // only with momentum
};

// As AdamWScalars.
struct SgdScalars {
  float lr, momentum, weight_decay, grad_scale;
};
SgdScalars sgd_scalars(const SgdConfig& config, const UpdateStep& step, const ParamGroup& group);

// State momentum, where there is one. Per element, in this order, each operation rounded once:
//   d = fma(weight_decay, p, g * grad_scale);  b = fma(momentum, b, d);  p = fma(-lr, b, p)
// Nesterov: p = fma(-lr, fma(momentum, b, d), p). Without momentum: p = fma(-lr, d, p).
class Sgd final : public Optimizer {
 public:
  explicit Sgd(const SgdConfig& config = {}, const StateStorage& storage = {}) : config_(config), storage_(storage) {
    STRATA_CHECK(config.momentum > 0.0 || !config.nesterov, "Nesterov's step needs a momentum");
    STRATA_CHECK(config.momentum > 0.0 || storage.format == kF32States, "without momentum there are no states to store");
    STRATA_CHECK(storage.format != kEightBitStates, "AdamW alone has 8-bit states");
  }

  const char* name() const override { return "sgd"; }
  std::vector<std::string> states() const override;
  StateFormat state_format() const override { return storage_.format; }
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override;
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override;

 private:
  SgdConfig config_;
  StateStorage storage_;
};

}  // namespace strata
