#include "optim/sgd.h"

#include "optim/gpu_kernels.h"
#include "optim/state_noise.h"
#include "optim/update_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {
namespace {

// The member of a table of kernels.
template <class Table>
auto kernel_of(const SgdConfig& config, const Table& table) {
  if (config.momentum == 0.0) return table.sgd;
  return config.nesterov ? table.nesterov : table.momentum;
}
template <class Table>
auto bf16_kernel_of(const SgdConfig& config, const Table& table) {
  return config.nesterov ? table.bf16_states.nesterov : table.bf16_states.momentum;
}

}  // namespace

SgdScalars sgd_scalars(const SgdConfig& config, const UpdateStep& step, const ParamGroup& group) {
  const auto rounded = [](double x) { return static_cast<float>(x); };
  return {.lr = rounded(step.lr * group.lr_scale),
          .momentum = rounded(config.momentum),
          .weight_decay = rounded(group.weight_decay),
          .grad_scale = rounded(step.grad_scale)};
}

std::vector<std::string> Sgd::states() const {
  if (config_.momentum == 0.0) return {};
  return {"momentum"};
}

void Sgd::update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  const SgdScalars scalars = sgd_scalars(config_, step, group);
  if (storage_.format == kF32States) return kernel_of(config_, update_kernels())(slice, scalars);
  bf16_kernel_of(config_, update_kernels())(slice, scalars, state_noise(storage_.seed, slice, step.number));
}

void Sgd::enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                         GpuQueue& queue) const {
  const SgdScalars scalars = sgd_scalars(config_, step, group);
  const OptimGpuKernels& kernels = driver.table<OptimGpuKernels>();
  if (storage_.format == kF32States) return kernel_of(config_, kernels)(slice, scalars, queue);
  bf16_kernel_of(config_, kernels)(slice, scalars, state_noise(storage_.seed, slice, step.number), queue);
}

}  // namespace strata
