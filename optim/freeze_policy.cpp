#include "optim/freeze_policy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

#include "optim/stateful_set.h"
#include "runtime/rng.h"
#include "runtime/status.h"

namespace strata {

std::vector<char> lisa_units(int units, std::span<const std::int64_t> blocks) {
  std::vector<char> active(static_cast<std::size_t>(units), 0);
  active.front() = active.back() = 1;
  for (const std::int64_t block : blocks) active[static_cast<std::size_t>(block) + 1] = 1;
  return active;
}

std::vector<char> Lisa::active(int units, std::int64_t choice, std::span<const double>) const {
  const std::int64_t blocks = std::max(units - 2, 0);
  return lisa_units(units, draw_numbers(blocks, std::min(config_.activated_layers, blocks),
                                        {.seed = seed_, .name = "lisa", .refresh = choice}));
}

int Lisa::blocks_at_once(int units) const {
  return static_cast<int>(std::min<std::int64_t>(config_.activated_layers, std::max(units - 2, 0)));
}

std::string Lisa::rule() const {
  return "lisa: " + std::to_string(config_.activated_layers) + " blocks for " + std::to_string(config_.interval_steps) +
         " steps, states " + (config_.drop_states ? "drop" : "keep") + ", seed " + std::to_string(seed_);
}

std::int64_t badam_block(BAdamOrder order, std::int64_t blocks, std::int64_t choice,
                         std::span<const std::int64_t> permutation) {
  STRATA_CHECK(blocks > 0 && choice >= 0, "one of the blocks is trained");
  const std::int64_t place = choice % blocks;
  if (order == BAdamOrder::ascending) return place;
  const std::int64_t from_end = blocks - 1 - place;
  return order == BAdamOrder::descending ? from_end : permutation[static_cast<std::size_t>(from_end)];
}

namespace {

// Every order is as likely as any other.
std::vector<std::int64_t> draw_order(std::int64_t n, std::uint64_t seed, std::int64_t round) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = 0; i + 1 < n; ++i) {
    const std::string name = "badam/" + std::to_string(i);
    const std::int64_t other = i + draw_numbers(n - i, 1, {.seed = seed, .name = name, .refresh = round}).front();
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(other)]);
  }
  return order;
}

}  // namespace

// The authors count the coming step too, so the first switch comes a step early.
std::int64_t BAdam::first_step(std::int64_t choice) const {
  return std::max<std::int64_t>(choice * config_.switch_block_every, 1);
}

std::vector<char> BAdam::active(int units, std::int64_t choice, std::span<const double>) const {
  const std::int64_t blocks = units - 2;
  STRATA_CHECK(blocks > 0, "one of the blocks is trained");
  std::vector<std::int64_t> permutation;
  if (config_.switch_mode == BAdamOrder::random) permutation = draw_order(blocks, seed_, choice / blocks);
  std::vector<char> active(static_cast<std::size_t>(units), 0);
  active[static_cast<std::size_t>(badam_block(config_.switch_mode, blocks, choice, permutation)) + 1] = 1;
  return active;
}

std::string BAdam::rule() const {
  const char* const order = config_.switch_mode == BAdamOrder::random      ? "random"
                            : config_.switch_mode == BAdamOrder::ascending ? "ascending"
                                                                           : "descending";
  return std::string("badam: ") + order + " blocks for " + std::to_string(config_.switch_block_every) + " steps, seed " +
         std::to_string(seed_);
}

std::int64_t slimfit_frozen(double freezing_rate, std::int64_t blocks) {
  return static_cast<std::int64_t>(std::floor(freezing_rate * static_cast<double>(blocks)));
}

std::vector<char> slimfit_units(std::int64_t frozen, std::span<const double> distances) {
  std::vector<std::size_t> blocks(distances.size() - 2);
  std::iota(blocks.begin(), blocks.end(), 1);
  std::stable_sort(blocks.begin(), blocks.end(), [&](std::size_t x, std::size_t y) { return distances[x] < distances[y]; });
  std::vector<char> active(distances.size(), 1);
  for (std::size_t i = 0; i < static_cast<std::size_t>(frozen); ++i) active[blocks[i]] = 0;
  return active;
}

std::vector<char> SlimFit::active(int units, std::int64_t, std::span<const double> distances) const {
  STRATA_CHECK(std::ssize(distances) == units, "every unit has a distance");
  return slimfit_units(slimfit_frozen(config_.freezing_rate, units - 2), distances);
}

// No measured distance is above 1.
std::vector<double> SlimFit::first_distances(int units) const {
  const Philox random(seed_, stream_id("slimfit"));
  std::vector<double> distances;
  for (int u = 0; u < units; ++u)
    distances.push_back((static_cast<double>(random.u32(static_cast<std::uint64_t>(u))) + 1.0) * 0x1p-32 * 1e10);
  return distances;
}

int SlimFit::blocks_at_once(int units) const {
  return static_cast<int>(units - 2 - slimfit_frozen(config_.freezing_rate, units - 2));
}

std::string SlimFit::rule() const {
  char rate[32];
  const std::to_chars_result end = std::to_chars(std::begin(rate), std::end(rate), config_.freezing_rate);
  return "slimfit: " + std::string(rate, end.ptr) + " of the blocks frozen for " + std::to_string(config_.switch_block_every) +
         " steps, seed " + std::to_string(seed_);
}

ActiveUnits::ActiveUnits(std::shared_ptr<const FreezePolicy> policy, int units)
    : policy_(std::move(policy)), updates_(static_cast<std::size_t>(units), 0) {
  if (policy_ != nullptr) distances_ = policy_->first_distances(units);
}

bool ActiveUnits::move_to(std::int64_t step) {
  STRATA_CHECK(step >= 1, "steps are counted from 1");
  if (policy_ == nullptr) return false;
  const std::int64_t choice = policy_->choice(step);
  if (choice == choice_) return false;
  const auto units = static_cast<int>(updates_.size());
  if (choice < choice_) {  // back to an earlier step
    std::fill(updates_.begin(), updates_.end(), 0);
    distances_ = policy_->first_distances(units);
    choice_ = -1;
  }
  STRATA_CHECK(!measures() || choice == choice_ + 1, "choices by distances are made one after another");
  for (std::int64_t past = std::max<std::int64_t>(choice_, 0); past < choice; ++past) {
    const std::int64_t steps = policy_->first_step(past + 1) - policy_->first_step(past);
    const bool at_hand = past == choice_;
    const std::vector<char> active = at_hand ? std::vector<char>() : policy_->active(units, past, distances_);
    for (std::size_t u = 0; u < updates_.size(); ++u)
      if (at_hand ? frozen_[u] == 0 : active[u] != 0) updates_[u] += steps;
  }
  const std::vector<char> active = policy_->active(units, choice, distances_);
  std::vector<char> before(active.size());
  for (std::size_t u = 0; u < active.size(); ++u) before[u] = active[u] == 0;
  std::swap(frozen_, before);
  choice_ = choice;
  return frozen_ != before;
}

std::vector<std::int64_t> ActiveUnits::updates_done(std::int64_t step) const {
  std::vector<std::int64_t> done = updates_;
  if (step > 0)
    for (int u = 0; u < std::ssize(done); ++u)
      if (!is_frozen(u)) done[static_cast<std::size_t>(u)] += step - policy_->first_step(choice_) + 1;
  return done;
}

bool ActiveUnits::resume(std::int64_t step, std::vector<char> frozen, std::span<const std::int64_t> updates_done,
                         std::vector<double> distances) {
  choice_ = policy_->choice(std::max<std::int64_t>(step, 1));
  std::swap(frozen_, frozen);
  distances_ = std::move(distances);
  updates_.assign(updates_done.begin(), updates_done.end());
  if (step > 0)
    for (int u = 0; u < std::ssize(updates_); ++u)
      if (!is_frozen(u)) updates_[static_cast<std::size_t>(u)] -= step - policy_->first_step(choice_) + 1;
  return frozen_ != frozen;
}

int ActiveUnits::turn(int u) const {
  STRATA_CHECK(is_block(u) && !is_frozen(u), "blocks that are trained have turns");
  return static_cast<int>(std::count(frozen_.begin() + 1, frozen_.begin() + u, 0));
}

std::int64_t ActiveUnits::update_number(int u, std::int64_t step) const {
  if (policy_ == nullptr) return step;
  if (drops()) return step - policy_->first_step(choice_) + 1;
  return updates_[static_cast<std::size_t>(u)] + step - policy_->first_step(choice_) + 1;
}

}  // namespace strata
