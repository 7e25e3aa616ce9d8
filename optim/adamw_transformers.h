// AdamW as the transformers library had it, and with it the authors' code of APOLLO and GaLore for parameters that are not
// projected: eps beside the uncorrected root, and decay of the new weights. At the first step its eps counts 32 times that of
// AdamW (adamw.h).
#pragma once

#include "optim/optimizer.h"

namespace strata {

struct TransformersAdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
};

// As AdamWScalars.
struct TransformersAdamWScalars {
  float one_minus_beta1, beta2, one_minus_beta2;
  float step_size;  // lr * sqrt(1 - beta2^step) / (1 - beta1^step)
  float eps;
  float decay_factor;  // 1 - lr * weight_decay; 1 changes no bit
  float grad_scale;
};
TransformersAdamWScalars transformers_adamw_scalars(const TransformersAdamWConfig& config, const UpdateStep& step,
                                                    const ParamGroup& group);

// States m and v. Per element, in this order, each operation rounded once:
//   g' = g * grad_scale;  m = fma(one_minus_beta1, g' - m, m);  v = fma(one_minus_beta2 * g', g', beta2 * v);
//   p = fma(-step_size, m / (sqrt(v) + eps), p) * decay_factor
class TransformersAdamW final : public Optimizer {
 public:
  explicit TransformersAdamW(const TransformersAdamWConfig& config = {}) : config_(config) {}

  const char* name() const override { return "adamw_transformers"; }
  std::vector<std::string> states() const override { return {"m", "v"}; }
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override;
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override;

 private:
  TransformersAdamWConfig config_;
};

}  // namespace strata
