#include "optim/frugal_subspace.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "optim/gpu_kernels.h"
#include "optim/low_rank_kernels.h"
#include "optim/orthonormal_projections.h"
#include "optim/row_method.h"
#include "runtime/gpu/driver.h"

namespace strata {
namespace {

float rounded(double x) { return static_cast<float>(x); }

void check(const LowRankBlock& block) {
  STRATA_CHECK(block.rows >= 0 && block.columns >= 1 && block.rank >= 1, "a block of rows has columns and a rank");
}

class SubspaceMethod final : public RowMethod {
 public:
  SubspaceMethod(const FrugalConfig& config, std::uint64_t seed) : config_(config), projections_(seed) {}

  std::int64_t rank(const ParamShape& param, const ParamGroup& group) const override {
    if (!group.projected || param.rows < 2 || param.columns < 2) return 0;
    return subspace_rank(param.columns, config_.density);
  }
  bool measures() const override { return false; }
  std::int64_t projection(std::int64_t step) const override { return frugal_period(config_, step).refresh; }
  bool keeps_projections() const override { return true; }
  bool projects_on_singular_vectors() const override { return config_.choice == FrugalChoice::singular_vectors; }
  void fill_projection(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                       ThreadPool& pool) const override {
    projections_.fill(matrix, number, projection, pool);
  }
  // There and back, for the step and for what is seen of the gradient.
  double projecting(std::int64_t rank) const override { return 3.0 * static_cast<double>(rank) / 64.0; }
  void apply(const LowRankBlock& block, const float* /*s*/, const WeightRows& weights, double /*scale*/, const UpdateStep& step,
             const ParamGroup& group, std::span<float> workspace) const override {
    subspace_update(config_, block, weights, step, group, workspace);
  }
  void enqueue_apply(const LowRankBlock& block, const float* /*s*/, const WeightRows& weights, double /*scale*/,
                     const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) const override {
    enqueue_subspace_update(config_, block, weights, step, group, driver, queue);
  }

 private:
  FrugalConfig config_;
  OrthonormalProjections projections_;
};

}  // namespace

std::int64_t subspace_rank(std::int64_t columns, double density) {
  return std::max<std::int64_t>(1, std::llrint(static_cast<double>(columns) * density));
}

std::unique_ptr<const RowMethod> make_subspace_method(const FrugalConfig& config, std::uint64_t seed) {
  return std::make_unique<SubspaceMethod>(config, seed);
}

SubspaceScalars subspace_scalars(const FrugalConfig& config, const UpdateStep& step, const ParamGroup& group) {
  const FrugalPeriod period = frugal_period(config, step.number);
  const double lr = step.lr * group.lr_scale, projected = lr * config.proj_params_lr_scale;
  SubspaceScalars scalars{.direction = {},
                          .step_size = rounded(projected),
                          .rest = {.rule = config.state_free,
                                   .lr = rounded(projected * config.inactive_lr_scale),
                                   .decay_factor = rounded(1.0 - lr * group.weight_decay),
                                   .grad_scale = rounded(step.grad_scale)}};
  DirectionScalars& d = scalars.direction;
  d.states_are_zero = period.states_are_zero;
  if (const auto* adamw = std::get_if<AdamWConfig>(&config.stateful)) {
    const AdamWScalars a = adamw_scalars(*adamw, {.number = period.local_step, .lr = projected}, {});
    d.kind = DirectionKind::adamw;
    d.one_minus_beta1 = a.one_minus_beta1, d.beta2 = a.beta2, d.one_minus_beta2 = a.one_minus_beta2;
    d.inv_sqrt_bias2 = a.inv_sqrt_bias2, d.eps = a.eps;
    scalars.step_size = a.step_size;
  } else if (const auto* lion = std::get_if<LionConfig>(&config.stateful)) {
    const LionScalars l = lion_scalars(*lion, {.lr = projected}, {});
    d.kind = DirectionKind::lion;
    d.beta1 = l.beta1, d.one_minus_beta1 = l.one_minus_beta1, d.beta2 = l.beta2, d.one_minus_beta2 = l.one_minus_beta2;
  } else {
    d.kind = DirectionKind::momentum;
    d.beta1 = rounded(std::get<FrugalMomentumConfig>(config.stateful).momentum);
  }
  return scalars;
}

void subspace_update(const FrugalConfig& config, const LowRankBlock& block, const WeightRows& weights, const UpdateStep& step,
                     const ParamGroup& group, std::span<float> workspace) {
  check(block);
  STRATA_CHECK(std::cmp_greater_equal(workspace.size(), low_rank_workspace(block.rank)), "the workspace is too small");
  low_rank_kernels().subspace(block, weights, subspace_scalars(config, step, group), workspace.data());
}

void enqueue_subspace_update(const FrugalConfig& config, const LowRankBlock& block, const WeightRows& weights,
                             const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) {
  check(block);
  driver.table<OptimGpuKernels>().subspace(block, weights, subspace_scalars(config, step, group), queue);
}

}  // namespace strata
