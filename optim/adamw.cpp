#include "optim/adamw.h"

#include <cmath>

#include "optim/bias_correction.h"
#include "optim/gpu_kernels.h"
#include "optim/state_noise.h"
#include "optim/update_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {

AdamWScalars adamw_scalars(const AdamWConfig& config, const UpdateStep& step, const ParamGroup& group) {
  const auto rounded = [](double x) { return static_cast<float>(x); };
  const double lr = step.lr * group.lr_scale;
  return {.beta1 = rounded(config.beta1),
          .one_minus_beta1 = rounded(1.0 - config.beta1),
          .beta2 = rounded(config.beta2),
          .one_minus_beta2 = rounded(1.0 - config.beta2),
          .step_size = rounded(lr / bias_correction(config.beta1, step.number)),
          .inv_sqrt_bias2 = rounded(1.0 / std::sqrt(bias_correction(config.beta2, step.number))),
          .eps = rounded(config.eps),
          .decay_factor = rounded(1.0 - lr * group.weight_decay),
          .grad_scale = rounded(step.grad_scale)};
}

void AdamW::update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  const AdamWScalars scalars = adamw_scalars(config_, step, group);
  if (storage_.format == kF32States) return update_kernels().adamw(slice, scalars);
  if (storage_.format == kEightBitStates) return update_kernels().adamw_8bit(slice, scalars);
  update_kernels().bf16_states.adamw(slice, scalars, state_noise(storage_.seed, slice, step.number));
}

void AdamW::enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                           GpuQueue& queue) const {
  const AdamWScalars scalars = adamw_scalars(config_, step, group);
  const OptimGpuKernels& kernels = driver.table<OptimGpuKernels>();
  if (storage_.format == kF32States) return kernels.adamw(slice, scalars, queue);
  if (storage_.format == kEightBitStates) return kernels.adamw_8bit(slice, scalars, queue);
  kernels.bf16_states.adamw(slice, scalars, state_noise(storage_.seed, slice, step.number), queue);
}

}  // namespace strata
