#include "optim/apollo_optimizer.h"

#include <fmt/format.h>

#include <algorithm>

namespace strata {
namespace {

std::unique_ptr<const ProjectionSource> source_of(ProjectionKind kind, std::uint64_t seed) {
  switch (kind) {
    case ProjectionKind::philox: return std::make_unique<PhiloxProjections>(seed);
    case ProjectionKind::torch: return std::make_unique<TorchProjections>();
    case ProjectionKind::svd: break;
  }
  return nullptr;
}

}  // namespace

Apollo::Apollo(const ApolloMethodConfig& config, std::uint64_t seed)
    : config_(config),
      seed_(seed),
      projections_(source_of(config.projections, seed)),
      others_({.beta1 = config.apollo.beta1, .beta2 = config.apollo.beta2, .eps = config.apollo.eps}) {
  STRATA_CHECK(config.rank >= 1, "a projection has a rank");
  STRATA_CHECK(config.update_gap >= 1, "APOLLO's update_gap is a number of steps");
}

std::string Apollo::choice_rule() const {
  const std::string drawn = config_.projections == ProjectionKind::torch ? "the authors' seeds"
                            : config_.projections == ProjectionKind::svd ? "singular vectors"
                                                                         : fmt::format("seed {}", seed_);
  return fmt::format("projections of rank {} for {} steps, {}", config_.rank, config_.update_gap, drawn);
}

std::int64_t Apollo::rank(const ParamShape& param, const ParamGroup& group) const {
  if (!group.projected || param.rows < 2 || param.columns < 2) return 0;
  return projects_on_singular_vectors() ? std::min(config_.rank, param.columns) : config_.rank;
}

std::int64_t Apollo::projection(std::int64_t step) const { return projection_number(step - 1, config_.update_gap); }

void Apollo::fill_projection(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                             ThreadPool& pool) const {
  STRATA_CHECK(projections_ != nullptr, "projections on singular vectors are made of gradients");
  projections_->fill(matrix, number, projection, pool);
}

// Both read the gradient; the products are 2 * rank operations an element, where an update is bound by memory.
double Apollo::projecting(std::int64_t rank) const { return 0.2 + static_cast<double>(rank) / 64.0; }

void Apollo::measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
                     std::span<float> workspace) const {
  apollo_project(config_.apollo, block, step.grad_scale, results, workspace);
}

double Apollo::scale(const ApolloSums& sums, double& memory) const {
  ApolloMatrix matrix{.limiter_norm = memory};
  const double factor = apollo_scale(config_.apollo, sums, matrix).factor;
  memory = matrix.limiter_norm;
  return factor;
}

void Apollo::apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
                   const ParamGroup& group, std::span<float> /*workspace*/) const {
  apollo_apply(block, factors(s), weights, apollo_apply_scalars(config_.apollo, {.factor = scale}, step, group));
}

void Apollo::enqueue_measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
                             const GpuDriver& driver, GpuQueue& queue) const {
  enqueue_apollo_project(config_.apollo, block, step.grad_scale, results, driver, queue);
}

void Apollo::enqueue_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale,
                           const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) const {
  enqueue_apollo_apply(block, factors(s), weights, apollo_apply_scalars(config_.apollo, {.factor = scale}, step, group), driver,
                       queue);
}

}  // namespace strata
