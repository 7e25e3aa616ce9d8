#include "optim/apollo.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "optim/gpu_kernels.h"
#include "optim/late_decay_rules.h"
#include "optim/low_rank_kernels.h"
#include "optim/low_rank_rules.h"
#include "optim/update_kernels.h"
#include "runtime/gpu/driver.h"

namespace strata {
namespace {

constexpr double kMostGrowth = 1.01;  // of an update's norm in a step

LowRankScalars scalars_of(const ApolloConfig& config, double grad_scale) {
  return low_rank_scalars({.beta1 = config.beta1, .beta2 = config.beta2, .eps = config.eps}, grad_scale);
}

void check(const LowRankBlock& block) {
  STRATA_CHECK(block.rows >= 0 && block.columns >= 1 && block.rank >= 1, "a block of rows has columns and a rank");
  STRATA_CHECK((block.new_m == nullptr) == (block.new_v == nullptr), "new moments: both or none");
}

}  // namespace

void add_rows(const RowResults& results, std::int64_t rows, ApolloSums& sums) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto s = static_cast<double>(results.s[i]);
    sums.update += s * s * results.g_squares[i];
    sums.g += results.g_squares[i];
    sums.r += results.r_squares[i];
    sums.n += results.n_squares[i];
  }
}

ApolloScale apollo_scale(const ApolloConfig& config, const ApolloSums& sums, ApolloMatrix& matrix) {
  ApolloScale scale{.factor = 1.0, .tensor = std::sqrt(sums.n) / (std::sqrt(sums.r) + kNormEps)};
  double norm = std::sqrt(sums.update);
  if (config.scaling == ApolloScaling::tensor) {
    scale.factor = scale.tensor;
    norm = scale.tensor * std::sqrt(sums.g);
  }
  const double root = std::sqrt(config.scale);
  scale.factor *= root;
  if (config.scale_front) norm *= root;
  if (!config.limit_growth) return scale;
  if (matrix.limiter_norm >= 0.0 || std::isnan(matrix.limiter_norm)) {
    const double growth = norm / (std::max(matrix.limiter_norm, config.norm_floor) + kNormEps);
    const double limit = std::max(growth, kMostGrowth) / kMostGrowth;
    scale.factor /= limit;
    norm /= limit;
  }
  matrix.limiter_norm = norm;
  return scale;
}

void apollo_project(const ApolloConfig& config, const LowRankBlock& block, double grad_scale, const RowResults& results,
                    std::span<float> workspace) {
  check(block);
  STRATA_CHECK(std::cmp_greater_equal(workspace.size(), low_rank_workspace(block.rank)), "the workspace is too small");
  low_rank_kernels().apollo_project(block, scalars_of(config, grad_scale), results, workspace.data());
}

void enqueue_apollo_project(const ApolloConfig& config, const LowRankBlock& block, double grad_scale, const RowResults& results,
                            const GpuDriver& driver, GpuQueue& queue) {
  check(block);
  driver.table<OptimGpuKernels>().apollo_project(block, scalars_of(config, grad_scale), results, queue);
}

ApplyScalars apollo_apply_scalars(const ApolloConfig& config, const ApolloScale& scale, const UpdateStep& step,
                                  const ParamGroup& group) {
  const double lr = step.lr * group.lr_scale;
  return {.step = uncorrected_step_size(lr, config.beta1, config.beta2, step.number) * scale.factor,
          .decay_factor = late_decay_factor(lr, group.weight_decay),
          .grad_scale = static_cast<float>(step.grad_scale)};
}

void apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars) {
  const auto apply = update_kernels().scaled_gradient;
  const UpdateSlice all{.p = weights.p,
                        .g = block.g,
                        .g16 = block.g16,
                        .p16 = weights.p16,
                        .n = block.rows * block.columns,
                        .new_p = weights.new_p};
  const auto step_of = [&](std::int64_t row) {
    return static_cast<float>(s == nullptr ? scalars.step : scalars.step * static_cast<double>(s[row]));
  };
  if (s == nullptr) {
    apply(all, {.step_size = step_of(0), .decay_factor = scalars.decay_factor, .grad_scale = scalars.grad_scale});
    return;
  }
  for (std::int64_t row = 0; row < block.rows; ++row)
    apply(part(all, row * block.columns, block.columns),
          {.step_size = step_of(row), .decay_factor = scalars.decay_factor, .grad_scale = scalars.grad_scale});
}

void enqueue_apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars,
                          const GpuDriver& driver, GpuQueue& queue) {
  driver.table<OptimGpuKernels>().apollo_apply(block, s, weights, scalars, queue);
}

}  // namespace strata
