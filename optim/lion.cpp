#include "optim/lion.h"

#include "optim/gpu_kernels.h"
#include "optim/state_noise.h"
#include "optim/update_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {

LionScalars lion_scalars(const LionConfig& config, const UpdateStep& step, const ParamGroup& group) {
  const auto rounded = [](double x) { return static_cast<float>(x); };
  const double lr = step.lr * group.lr_scale;
  return {.beta1 = rounded(config.beta1),
          .one_minus_beta1 = rounded(1.0 - config.beta1),
          .beta2 = rounded(config.beta2),
          .one_minus_beta2 = rounded(1.0 - config.beta2),
          .lr = rounded(lr),
          .decay_factor = rounded(1.0 - lr * group.weight_decay),
          .grad_scale = rounded(step.grad_scale)};
}

void Lion::update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  const LionScalars scalars = lion_scalars(config_, step, group);
  if (storage_.format == kF32States) return update_kernels().lion(slice, scalars);
  update_kernels().bf16_states.lion(slice, scalars, state_noise(storage_.seed, slice, step.number));
}

void Lion::enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                          GpuQueue& queue) const {
  const LionScalars scalars = lion_scalars(config_, step, group);
  const OptimGpuKernels& kernels = driver.table<OptimGpuKernels>();
  if (storage_.format == kF32States) return kernels.lion(slice, scalars, queue);
  kernels.bf16_states.lion(slice, scalars, state_noise(storage_.seed, slice, step.number), queue);
}

}  // namespace strata
