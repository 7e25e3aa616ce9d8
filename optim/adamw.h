// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with PyTorch's semantics: decoupled decay of the old weights, bias
// corrections in double, eps beside the corrected root.
#pragma once

#include "optim/optimizer.h"

namespace strata {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

// One step's scalars of a group: computed once in double from the integer step, each rounded once to f32.
struct AdamWScalars {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;       // lr / (1 - beta1^step)
  float inv_sqrt_bias2;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float decay_factor;  // 1 - lr * weight_decay; 1 changes no bit
  float grad_scale;
};
// Powers of the betas are made by repeated squaring, so they are the same on every machine.
AdamWScalars adamw_scalars(const AdamWConfig& config, const UpdateStep& step, const ParamGroup& group);

// States m and v. Per element, in this order, each operation rounded once (update_rules.h):
//   g' = g * grad_scale;  p' = p * decay_factor;  m = fma(one_minus_beta1, g' - m, m);
//   v = fma(one_minus_beta2 * g', g', beta2 * v);  d = fma(sqrt(v), inv_sqrt_bias2, eps);  p = fma(-step_size, m / d, p')
class AdamW final : public Optimizer {
 public:
  explicit AdamW(const AdamWConfig& config = {}, const StateStorage& storage = {}) : config_(config), storage_(storage) {}
  const char* name() const override { return "adamw"; }
  std::vector<std::string> states() const override { return {"m", "v"}; }
  StateFormat state_format() const override { return storage_.format; }
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override;
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override;

 private:
  AdamWConfig config_;
  StateStorage storage_;
};

}  // namespace strata
