// GaLore as an optimizer: the weights of linear layers inside blocks (groups that are projected) as galore.h has them, on the
// leading singular vectors of their gradient, all other parameters by TransformersAdamW with the same betas and eps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optim/adamw_transformers.h"
#include "optim/galore.h"
#include "optim/row_method.h"

namespace strata {

struct GaloreMethodConfig {
  GaloreConfig galore = {};
  std::int64_t rank = 128;        // at least 1; of a matrix with a shorter dim, that one
  std::int64_t update_gap = 200;  // steps of a projection
};

class Galore final : public Optimizer, public RowMethod {
 public:
  explicit Galore(const GaloreMethodConfig& config);

  const char* name() const override { return "galore"; }
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
  bool measures() const override { return false; }
  std::int64_t projection(std::int64_t step) const override { return projection_number(step - 1, config_.update_gap); }
  bool keeps_projections() const override { return true; }
  bool projects_on_singular_vectors() const override { return true; }
  void fill_projection(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                       ThreadPool& pool) const override;
  double projecting(std::int64_t rank) const override;
  void apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
             const ParamGroup& group, std::span<float> workspace) const override {
    (void)s, (void)scale;
    galore_update(config_.galore, block, weights, step, group, workspace);
  }
  void enqueue_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
                     const ParamGroup& group, const GpuDriver& driver, GpuQueue& queue) const override {
    (void)s, (void)scale;
    enqueue_galore_update(config_.galore, block, weights, step, group, driver, queue);
  }

 private:
  GaloreMethodConfig config_;
  TransformersAdamW others_;
};

}  // namespace strata
