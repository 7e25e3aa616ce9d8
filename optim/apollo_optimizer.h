// APOLLO and APOLLO-Mini as an optimizer: the weights of linear layers inside blocks (groups that are projected) as apollo.h
// has them, all other parameters by TransformersAdamW with the same betas and eps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optim/adamw_transformers.h"
#include "optim/apollo.h"
#include "optim/row_method.h"

namespace strata {

enum class ProjectionKind {
  philox,  // PhiloxProjections: any of them at once
  torch,   // TorchProjections: those of the authors' code on a CPU
  svd,     // the leading singular vectors of the gradient
};

struct ApolloMethodConfig {
  ApolloConfig apollo = {};
  std::int64_t rank = 256;        // at least 1; of singular vectors no more than a matrix has
  std::int64_t update_gap = 200;  // steps of a projection
  ProjectionKind projections = ProjectionKind::philox;
};

class Apollo final : public Optimizer, public RowMethod {
 public:
  // seed: of the projections (not of the authors').
  explicit Apollo(const ApolloMethodConfig& config, std::uint64_t seed = 0);

  const char* name() const override { return "apollo"; }
  std::vector<std::string> states() const override { return {"m", "v"}; }
  std::string choice_rule() const override;
  const RowMethod* rows() const override { return this; }

  // Of parameters that are not projected.
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override {
    others_.update(slice, step, group);
  }
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override {
    others_.enqueue_on_gpu(slice, step, group, driver, queue);
  }

  std::int64_t rank(const ParamShape& param, const ParamGroup& group) const override;
  bool measures() const override { return true; }
  std::int64_t projection(std::int64_t step) const override;
  bool keeps_projections() const override { return projects_on_singular_vectors(); }
  bool projects_on_singular_vectors() const override { return config_.projections == ProjectionKind::svd; }
  void fill_projection(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                       ThreadPool& pool) const override;
  bool projects_on_gpu() const override { return projections_ != nullptr && projections_->draws_on_gpu(); }
  void enqueue_projection(const ProjectedMatrix& matrix, std::int64_t number, float* projection, const GpuDriver& driver,
                          GpuQueue& queue) const override {
    projections_->enqueue_fill(matrix, number, projection, driver, queue);
  }
  double projecting(std::int64_t rank) const override;
  void measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
               std::span<float> workspace) const override;
  double scale(const ApolloSums& sums, double& memory) const override;
  void apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
             const ParamGroup& group, std::span<float> workspace) const override;
  void enqueue_measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results, const GpuDriver& driver,
                       GpuQueue& queue) const override;
  void enqueue_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
                     const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) const override;

 private:
  const float* factors(const float* s) const { return config_.apollo.scaling == ApolloScaling::channel ? s : nullptr; }

  ApolloMethodConfig config_;
  std::uint64_t seed_;
  std::unique_ptr<const ProjectionSource> projections_;  // null: of singular vectors
  TransformersAdamW others_;
};

}  // namespace strata
