// FRUGAL (Zmushko et al. 2025, arXiv 2411.07837: gradient splitting), as the authors' code computes it
// (github.com/fzmushko/FRUGAL, c7ebe4c): a part of the elements, chosen anew every update_gap steps, is trained by an optimizer
// with states; the others by a rule without. Which part: columns, rows or entries of every matrix (their Coord classes), whole
// tensors (their Block classes), or what of the gradient lies in a subspace, of its leading singular vectors or a random one
// (their Galore classes; frugal_subspace.h).
//
// What is chosen is a function of seed, names and step (StatefulSet, active_blocks()); states are the caller's, laid out as
// stateful_set.h says. Differences from the authors' code: momentum begins at zero, not as a copy of the
// gradient or of the weights; where states are kept over a refresh, they pass from the old choice to the new one in ascending
// order, not in that of two random lists.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "optim/adamw.h"
#include "optim/frugal_blocks.h"
#include "optim/lion.h"
#include "optim/optimizer.h"

namespace strata {

enum class FrugalChoice : std::uint8_t { columns, rows, entries, tensors, singular_vectors, random_space };
// The step of elements without states, from their gradient: none, the gradient, its sign (of 0: 0).
enum class StateFreeRule : std::uint8_t { none, sgd, sign_sgd };
// State momentum; decay is decoupled, unlike that of Sgd.
struct FrugalMomentumConfig {
  double momentum = 0.9;
};

struct FrugalConfig {
  FrugalChoice choice = FrugalChoice::columns;
  BlockOrder block_order = BlockOrder::descending;  // of tensors
  double density = 0.25;                            // in [0, 1]: the part that has states
  std::int64_t update_gap = 200;                    // steps; at least 1
  bool reset_statistics = true;                     // at a refresh; those of whole tensors always are
  StateFreeRule state_free = StateFreeRule::sign_sgd;
  double inactive_lr_scale = 1.0;     // of elements without states, times the next one
  double proj_params_lr_scale = 1.0;  // of the learning rate for both kinds of elements, but not for their decay
  std::variant<AdamWConfig, LionConfig, FrugalMomentumConfig> stateful = AdamWConfig{};
};

// How many columns, rows or entries of a matrix have states: density times as many as there are, cut off, in double.
std::int64_t frugal_count(FrugalChoice choice, std::int64_t rows, std::int64_t columns, double density);

// Where a step, counted from 1, is between the choices.
struct FrugalPeriod {
  std::int64_t refresh = 0;     // number of the choice that holds, from 0
  std::int64_t local_step = 1;  // of the states, for bias corrections, from 1
  bool begins = true;           // the choice is new
  bool states_are_zero = true;
  bool operator==(const FrugalPeriod&) const = default;
};
FrugalPeriod frugal_period(const FrugalConfig& config, std::int64_t step);

// The choice of refresh `key.refresh` for a matrix, whose name is in the key; not of tensors.
StatefulSet frugal_set(const FrugalConfig& config, std::int64_t rows, std::int64_t columns, const StatefulKey& key);

// One step's scalars, as AdamWScalars.
struct StateFreeScalars {
  StateFreeRule rule = StateFreeRule::none;
  float lr = 0.0f;
  float decay_factor = 1.0f;
  float grad_scale = 1.0f;
};
struct FrugalMomentumScalars {
  float lr, momentum, decay_factor, grad_scale;
};

// Of parameters whose group is projected; the others have the optimizer with states alone, at the learning rate and the step
// number of all steps. What of a parameter has states is the slice's map; density in [0, 1], update_gap at least 1.
// Per element, each operation rounded once: with states those of AdamW (adamw.h), Lion (lion.h) at the learning rate lr *
// proj_params_lr_scale, or
//   g' = g * grad_scale;  p' = p * decay_factor;  b = fma(momentum, b, g');  p = fma(-lr, b, p')
// and without states
//   g' = g * grad_scale;  p' = p * decay_factor;  p = fma(-(lr * proj_params_lr_scale * inactive_lr_scale), f(g'), p')
// decay_factor is 1 - lr * weight_decay for all. Any cutting, alignment and processor gives the same bits.
class Frugal final : public Optimizer {
 public:
  // seed: of the choices.
  explicit Frugal(const FrugalConfig& config, std::uint64_t seed = 0);
  const FrugalConfig& config() const { return config_; }

  const char* name() const override { return "frugal"; }
  std::vector<std::string> states() const override;
  const RowMethod* rows() const override { return subspace_.get(); }
  std::int64_t choice(std::int64_t step) const override { return frugal_period(config_, step).refresh; }
  StatefulSet stateful(const ParamShape& param, const ParamGroup& group, std::int64_t choice) const override;
  std::int64_t most_states(const ParamShape& param, const ParamGroup& group, std::int64_t first, std::int64_t n) const override;
  // Of tensors, whole matrices: those that a parameter stacks count one by one (ParamShape::parts).
  bool takes_turns(const ParamShape& param, const ParamGroup& group) const override;
  std::int64_t most_at_once(std::span<const std::int64_t> elements) const override;
  Status accepts(std::int64_t matrices) const override;
  std::int64_t stateful_words(const ParamShape& param, const ParamGroup& group) const override;
  std::string choice_rule() const override;

  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override;
  bool updates_on_gpu() const override { return true; }
  void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const override;

 private:
  std::vector<std::int64_t> active_matrices(std::int64_t matrices, std::int64_t choice) const;

  FrugalConfig config_;
  std::uint64_t seed_;
  std::shared_ptr<const RowMethod> subspace_;  // null: none
};

}  // namespace strata
