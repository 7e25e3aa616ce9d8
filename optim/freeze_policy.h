// Which units of a model are trained in which step: policies beside the optimizer. A frozen unit computes no gradients of its
// parameters, reduces and moves none, and is not updated. Sources: LISA, Pan et al. 2024, arXiv 2403.17919, as LMFlow (f3597db)
// has it; BAdam, Luo et al. 2024, arXiv 2404.02827, as the package badam 1.3 has it; SlimFit, Ardakani et al. 2023, arXiv
// 2305.18513, as its code (9070510) has it.
//
// Units are counted in the model's order: the embedding, the blocks, the head with the last norm. What is active is a function
// of the policy, the seed, the step and, of some policies, how far the blocks were moved: the same on every rank and after a
// restart.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace strata {

// Immutable: one object serves every thread.
class FreezePolicy {
 public:
  virtual ~FreezePolicy() = default;
  virtual const char* name() const = 0;
  // Number of the choice that holds in a step (counted from 1), from 0; it does not fall from step to step.
  virtual std::int64_t choice(std::int64_t step) const = 0;
  // The first step of a choice. One that no step has begins where the next one does.
  virtual std::int64_t first_step(std::int64_t choice) const = 0;
  // Whether each of `units` units is active in this choice. The first and the last one are so in every choice, or in none.
  // distances: where the policy asks for them (first_distances()), of each unit that of its last update before this choice.
  virtual std::vector<char> active(int units, std::int64_t choice, std::span<const double> distances) const = 0;
  // Of each unit the distance before its first update; empty: choices depend on none, and none is measured. The distance of an
  // update is the mean of |(old - new) / old| over a block's elements, as kernels::sum_relative_changes() has it.
  virtual std::vector<double> first_distances(int) const { return {}; }
  // How many of the others are active in a choice, at most.
  virtual int blocks_at_once(int units) const = 0;
  // Whether each choice begins with states of zero, at update 1; otherwise units keep theirs while they are frozen.
  virtual bool drops_states() const = 0;
  // What choices depend on, as a text: checkpoints hold it, and those of another policy are refused.
  virtual std::string rule() const = 0;
};

struct LisaConfig {
  std::int64_t activated_layers = 2;  // blocks that are active at once; all of them where there are not more
  std::int64_t interval_steps = 20;   // at least 1
  bool drop_states = true;            // as the authors' experiments, which loaded the weights anew; else as their library
};

// `activated_layers` blocks, drawn anew every interval_steps steps, each set as likely as any other; embedding and head always.
class Lisa final : public FreezePolicy {
 public:
  Lisa(const LisaConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {}
  const char* name() const override { return "lisa"; }
  std::int64_t choice(std::int64_t step) const override { return (step - 1) / config_.interval_steps; }
  std::int64_t first_step(std::int64_t choice) const override { return choice * config_.interval_steps + 1; }
  std::vector<char> active(int units, std::int64_t choice, std::span<const double> distances) const override;
  int blocks_at_once(int units) const override;
  bool drops_states() const override { return config_.drop_states; }
  std::string rule() const override;

 private:
  LisaConfig config_;
  std::uint64_t seed_;
};
// With blocks that were drawn elsewhere, each in [0, units - 2).
std::vector<char> lisa_units(int units, std::span<const std::int64_t> blocks);

enum class BAdamOrder : std::uint8_t { random, ascending, descending };

struct BAdamConfig {
  std::int64_t switch_block_every = 50;  // at least 1
  BAdamOrder switch_mode = BAdamOrder::descending;
};

// One block after another; embedding, head and last norm are never trained. As with the authors the first block has a step less
// than the others. States begin at zero with each block.
class BAdam final : public FreezePolicy {
 public:
  BAdam(const BAdamConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {}
  const char* name() const override { return "badam"; }
  std::int64_t choice(std::int64_t step) const override { return step / config_.switch_block_every; }
  std::int64_t first_step(std::int64_t choice) const override;
  std::vector<char> active(int units, std::int64_t choice, std::span<const double> distances) const override;
  int blocks_at_once(int) const override { return 1; }
  bool drops_states() const override { return true; }
  std::string rule() const override;

 private:
  BAdamConfig config_;
  std::uint64_t seed_;
};
// The block of choice number `choice`, counted from 0. Order random: `permutation` is used from its end.
std::int64_t badam_block(BAdamOrder order, std::int64_t blocks, std::int64_t choice,
                         std::span<const std::int64_t> permutation = {});

struct SlimFitConfig {
  double freezing_rate = 0.9;           // of the blocks, the part that is frozen, in [0, 1)
  std::int64_t switch_block_every = 1;  // steps of a choice, at least 1
};

// The blocks that their last updates moved least are frozen; embedding and head always trained. Before its first update a
// block has a random distance beyond any that is measured, so that every block has its turn first.
class SlimFit final : public FreezePolicy {
 public:
  SlimFit(const SlimFitConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {}
  const char* name() const override { return "slimfit"; }
  std::int64_t choice(std::int64_t step) const override { return (step - 1) / config_.switch_block_every; }
  std::int64_t first_step(std::int64_t choice) const override { return choice * config_.switch_block_every + 1; }
  std::vector<char> active(int units, std::int64_t choice, std::span<const double> distances) const override;
  std::vector<double> first_distances(int units) const override;
  int blocks_at_once(int units) const override;
  bool drops_states() const override { return false; }
  std::string rule() const override;

 private:
  SlimFitConfig config_;
  std::uint64_t seed_;
};
// How many of so many blocks are frozen: the whole part of the product in double, as the authors' int(rate * n).
std::int64_t slimfit_frozen(double freezing_rate, std::int64_t blocks);
// With so many of the blocks frozen, those of the smallest distances (of each unit); of equal ones the first.
std::vector<char> slimfit_units(std::int64_t frozen, std::span<const double> distances);

// Where a run has got to with a policy.
class ActiveUnits {
 public:
  // policy null: every unit is active in every step.
  ActiveUnits(std::shared_ptr<const FreezePolicy> policy, int units);
  // Whether the choice of this step (from 1) is the one at hand.
  bool holds_in(std::int64_t step) const { return policy_ == nullptr || policy_->choice(step) == choice_; }
  // Makes it the one at hand. Returns whether other units are active than before. Where distances are measured, a run goes
  // from choice to choice, or back to the first.
  bool move_to(std::int64_t step);
  // Whether the choices depend on distances; and whether on that of this step's update, which is then to be measured: the next
  // step has another choice than this one. Distances of earlier updates would be replaced before they are looked at.
  bool measures() const { return !distances_.empty(); }
  bool measures(std::int64_t step) const { return measures() && policy_->choice(step) != policy_->choice(step + 1); }
  // Of each unit; those that are always active have none that counts.
  const std::vector<double>& distances() const { return distances_; }
  void set_distance(int u, double distance) { distances_[static_cast<std::size_t>(u)] = distance; }
  // How often each unit was updated until after a step of the choice at hand (0: before the first one).
  std::vector<std::int64_t> updates_done(std::int64_t step) const;
  // Where distances are measured: goes on after `step` steps of another run, with what it had then. Returns as move_to().
  bool resume(std::int64_t step, std::vector<char> frozen, std::span<const std::int64_t> updates_done,
              std::vector<double> distances);
  // Of each unit, whether it is frozen; empty: none is.
  const std::vector<char>& frozen() const { return frozen_; }
  bool is_frozen(int u) const { return !frozen_.empty() && frozen_[static_cast<std::size_t>(u)] != 0; }
  // Of a step of the choice at hand: which of the unit's updates it is since its states were zero, from 1; steps in which it
  // was frozen do not count.
  std::int64_t update_number(int u, std::int64_t step) const;
  // Of a step of the choice at hand: whether states are zero before it, whatever is stored.
  bool states_are_zero(std::int64_t step) const { return drops() && step == policy_->first_step(choice_); }
  // Whether a unit has no states, or none that will be used: it is frozen, and they were dropped.
  bool is_stateless(int u) const { return drops() && is_frozen(u); }
  // Whether a unit needs no memory of its own for states: it is never trained, or one of the blocks that take turns.
  bool shares_states(int u) const { return drops() && (is_block(u) || is_frozen(u)); }
  // Of an active block: its place among those that are active, below blocks_at_once().
  int turn(int u) const;
  int blocks_at_once() const { return policy_ == nullptr ? 0 : policy_->blocks_at_once(static_cast<int>(updates_.size())); }
  bool is_block(int u) const { return u > 0 && u + 1 < static_cast<int>(updates_.size()); }
  bool drops() const { return policy_ != nullptr && policy_->drops_states(); }

 private:
  std::shared_ptr<const FreezePolicy> policy_;
  std::int64_t choice_ = -1;
  std::vector<std::int64_t> updates_;  // of each unit, in the choices before
  std::vector<char> frozen_;
  std::vector<double> distances_;
};

}  // namespace strata
