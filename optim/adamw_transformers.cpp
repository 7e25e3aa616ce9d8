#include "optim/adamw_transformers.h"

#include "optim/gpu_kernels.h"
#include "optim/low_rank.h"
#include "optim/update_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {

TransformersAdamWScalars transformers_adamw_scalars(const TransformersAdamWConfig& config, const UpdateStep& step,
                                                    const ParamGroup& group) {
  const auto rounded = [](double x) { return static_cast<float>(x); };
  const double lr = step.lr * group.lr_scale;
  return {.one_minus_beta1 = rounded(1.0 - config.beta1),
          .beta2 = rounded(config.beta2),
          .one_minus_beta2 = rounded(1.0 - config.beta2),
          .step_size = rounded(uncorrected_step_size(lr, config.beta1, config.beta2, step.number)),
          .eps = rounded(config.eps),
          .decay_factor = late_decay_factor(lr, group.weight_decay),
          .grad_scale = rounded(step.grad_scale)};
}

void TransformersAdamW::update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  update_kernels().adamw_transformers(slice, transformers_adamw_scalars(config_, step, group));
}

void TransformersAdamW::enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group,
                                       const GpuDriver& driver, GpuQueue& queue) const {
  driver.table<OptimGpuKernels>().adamw_transformers(slice, transformers_adamw_scalars(config_, step, group), queue);
}

}  // namespace strata
