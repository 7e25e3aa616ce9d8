// Lion (Chen et al. 2023, arXiv 2302.06675, Program 1): the sign of an interpolated momentum, decoupled decay.
#pragma once

#include "optim/optimizer.h"

namespace strata {

struct LionConfig {
  double beta1 = 0.9;   // of the direction
  double beta2 = 0.99;  // of the momentum
};

// As AdamWScalars.
struct LionScalars {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float lr;
  float decay_factor;  // 1 - lr * weight_decay; 1 changes no bit
  float grad_scale;
};
LionScalars lion_scalars(const LionConfig& config, const UpdateStep& step, const ParamGroup& group);

// State m. Per element, in this order, each operation rounded once:
//   g' = g * grad_scale;  p' = p * decay_factor;  c = fma(one_minus_beta1, g', beta1 * m);  p = fma(-lr, sign(c), p');
//   m = fma(one_minus_beta2, g', beta2 * m).  sign(0) is 0.
class Lion final : public Optimizer {
 public:
  explicit Lion(const LionConfig& config = {}, const StateStorage& storage = {}) : config_(config), storage_(storage) {
    STRATA_CHECK(storage.format != kEightBitStates, "AdamW alone has 8-bit states");
  }

  const char* name() const override { return "lion"; }
  std::vector<std::string> states() const override { return {"m"}; }
  StateFormat state_format() const override { return storage_.format; }
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override;
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override;

 private:
  LionConfig config_;
  StateStorage storage_;
};

}  // namespace strata
