#include "optim/galore.h"

#include <utility>

#include "optim/gpu_kernels.h"
#include "optim/low_rank_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {
namespace {

void check(const LowRankBlock& block) {
  STRATA_CHECK(block.rows >= 0 && block.columns >= 1 && block.rank >= 1, "a block of rows has columns and a rank");
  STRATA_CHECK((block.new_m == nullptr) == (block.new_v == nullptr), "new moments: both or none");
}

}  // namespace

GaloreScalars galore_scalars(const GaloreConfig& config, const UpdateStep& step, const ParamGroup& group) {
  const double lr = step.lr * group.lr_scale;
  const double step_size = uncorrected_step_size(lr, config.beta1, config.beta2, step.number) * config.scale;
  return {.moments = low_rank_scalars({.beta1 = config.beta1, .beta2 = config.beta2, .eps = config.eps}, step.grad_scale),
          .step_size = static_cast<float>(step_size),
          .decay_factor = late_decay_factor(lr, group.weight_decay)};
}

void galore_update(const GaloreConfig& config, const LowRankBlock& block, const WeightRows& weights, const UpdateStep& step,
                   const ParamGroup& group, std::span<float> workspace) {
  check(block);
  STRATA_CHECK(std::cmp_greater_equal(workspace.size(), low_rank_workspace(block.rank)), "the workspace is too small");
  low_rank_kernels().galore(block, weights, galore_scalars(config, step, group), workspace.data());
}

void enqueue_galore_update(const GaloreConfig& config, const LowRankBlock& block, const WeightRows& weights,
                           const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) {
  check(block);
  driver.table<OptimGpuKernels>().galore(block, weights, galore_scalars(config, step, group), queue);
}

}  // namespace strata
