// Which units are trained when, against what the authors' code of LISA and BAdam chose (make_schedule_vectors.py), and small
// runs of LISA with its draws. Mutations caught: a first block of BAdam with as many steps as the others, a permutation used
// from its beginning, updates counted while a unit is frozen.
#include "optim/freeze_policy.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "optim/adamw.h"
#include "torch_permutation.h"
#include "vector_file.h"

namespace strata {
namespace {

std::set<int> active_units(const FreezePolicy& policy, int units, std::int64_t choice) {
  std::set<int> active;
  const std::vector<char> flags = policy.active(units, choice);
  EXPECT_EQ(flags.size(), static_cast<std::size_t>(units));
  for (int u = 0; u < units; ++u)
    if (flags[static_cast<std::size_t>(u)] != 0) active.insert(u);
  return active;
}

TEST(BAdamPolicy, TrainsTheBlocksOfTheAuthors) {
  const vector_file::File file("schedules.bin");
  const std::array<std::pair<const char*, BAdamOrder>, 3> modes = {
      {{"random", BAdamOrder::random}, {"ascending", BAdamOrder::ascending}, {"descending", BAdamOrder::descending}}};
  for (const auto& [mode, order] : modes) {
    SCOPED_TRACE(mode);
    const std::string which = std::string("badam/") + mode;
    const auto layers = static_cast<std::int64_t>(file.number(which + "/layers"));
    const BAdam policy({.switch_block_every = static_cast<std::int64_t>(file.number(which + "/K")), .switch_mode = order}, 1);
    std::mt19937 engine(static_cast<std::uint32_t>(file.number(which + "/seed")));
    std::vector<std::vector<std::int64_t>> permutations;
    std::int64_t step = 0;
    for (const std::int64_t block : file.integers(which + "/blocks")) {
      const std::int64_t choice = policy.choice(++step);
      while (std::ssize(permutations) <= choice / layers) permutations.push_back(torch_permutation(layers, engine));
      const std::int64_t ours = badam_block(order, layers, choice, permutations[static_cast<std::size_t>(choice / layers)]);
      ASSERT_EQ(ours, block) << "step " << step;
      EXPECT_TRUE(policy.first_step(choice) <= step && step < policy.first_step(choice + 1)) << "step " << step;
      const std::set<int> active = active_units(policy, static_cast<int>(layers) + 2, choice);
      EXPECT_EQ(active.size(), 1u);
      if (order != BAdamOrder::random) {
        EXPECT_EQ(*active.begin(), block + 1) << "step " << step;
      }
    }
    EXPECT_GT(step, 3 * layers);
  }
}

TEST(BAdamPolicy, TakesEveryBlockOnceInARoundOfRandomOrder) {
  const BAdam policy({.switch_block_every = 1, .switch_mode = BAdamOrder::random}, 7);
  std::set<std::vector<int>> orders;
  for (int round = 0; round < 5; ++round) {
    std::vector<int> order;
    for (int i = 0; i < 6; ++i) order.push_back(*active_units(policy, 8, round * 6 + i).begin());
    EXPECT_EQ(std::set<int>(order.begin(), order.end()), (std::set<int>{1, 2, 3, 4, 5, 6}));
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 2u);
}

TEST(LisaPolicy, DrawsBlocksEvenlyAndTrainsTheRestAlways) {
  const Lisa policy({.activated_layers = 2, .interval_steps = 3}, 5), other({.activated_layers = 2, .interval_steps = 3}, 6);
  std::array<int, 10> times{};
  bool differs = false;
  for (std::int64_t choice = 0; choice < 2000; ++choice) {
    const std::set<int> active = active_units(policy, 10, choice);
    EXPECT_EQ(active.size(), 4u);
    EXPECT_TRUE(active.contains(0) && active.contains(9));
    for (const int u : active) ++times[static_cast<std::size_t>(u)];
    differs = differs || active != active_units(other, 10, choice);
  }
  EXPECT_TRUE(differs) << "the seed counts";
  for (std::size_t u = 1; u < 9; ++u) EXPECT_NEAR(times[u], 500, 100) << u;  // five standard deviations
  EXPECT_EQ(policy.choice(3), 0);
  EXPECT_EQ(policy.choice(4), 1);
  EXPECT_EQ(policy.first_step(1), 4);
}

// Draws from elsewhere.
class Drawn final : public FreezePolicy {
 public:
  Drawn(std::vector<std::int64_t> active, std::int64_t gamma, std::int64_t every, bool drops)
      : active_(std::move(active)), gamma_(gamma), every_(every), drops_(drops) {}
  const char* name() const override { return "drawn"; }
  std::int64_t choice(std::int64_t step) const override { return (step - 1) / every_; }
  std::int64_t first_step(std::int64_t choice) const override { return choice * every_ + 1; }
  std::vector<char> active(int units, std::int64_t choice) const override {
    return lisa_units(units,
                      std::span(active_).subspan(static_cast<std::size_t>(choice * gamma_), static_cast<std::size_t>(gamma_)));
  }
  int blocks_at_once(int) const override { return static_cast<int>(gamma_); }
  bool drops_states() const override { return drops_; }
  std::string rule() const override { return "drawn"; }

 private:
  std::vector<std::int64_t> active_;
  std::int64_t gamma_, every_;
  bool drops_;
};

// L1 of the parity plan.
TEST(LisaPolicy, WithTheirDrawsIsTorchWithSkippedTensors) {
  const vector_file::File file("schedules.bin");
  for (const bool drops : {false, true}) {
    const std::string which = drops ? "lisa/restart" : "lisa/keep";
    SCOPED_TRACE(which);
    const auto every = static_cast<std::int64_t>(file.number(which + "/K"));
    const auto gamma = static_cast<std::int64_t>(file.number(which + "/gamma"));
    constexpr int kUnits = 8;
    const auto tensor_of = [](int u) { return u == 0 ? 6 : u == kUnits - 1 ? 7 : u - 1; };
    ActiveUnits units(std::make_shared<Drawn>(file.integers(which + "/active"), gamma, every, drops), kUnits);
    const AdamW adamw({file.number(which + "/h/beta1"), file.number(which + "/h/beta2"), file.number(which + "/h/eps")});
    const ParamGroup group{.weight_decay = file.number(which + "/h/weight_decay")};
    std::array<std::array<std::vector<float>, 3>, kUnits> state;  // p, m, v
    std::array<vector_file::Difference, kUnits> difference;
    for (int u = 0; u < kUnits; ++u) {
      auto& [p, m, v] = state[static_cast<std::size_t>(u)];
      p = file.floats(which + "/tensor" + std::to_string(tensor_of(u)) + "/w0");
      m = v = std::vector<float>(p.size());
      difference[static_cast<std::size_t>(u)].track(p);
    }
    std::int64_t t = 0;
    for (const double lr : file.learning_rates(which)) {
      const std::string step = which + "/step" + std::to_string(++t);
      units.move_to(t);
      for (int u = 0; u < kUnits; ++u) {
        auto& [p, m, v] = state[static_cast<std::size_t>(u)];
        if (units.states_are_zero(t)) m = v = std::vector<float>(p.size());
        const std::string tensor = "/tensor" + std::to_string(tensor_of(u));
        const std::vector<float> g = file.gradient(which + tensor, t);
        if (!units.is_frozen(u))
          adamw.update({.p = p.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = std::ssize(p)},
                       {.number = units.update_number(u, t), .lr = lr}, group);
        vector_file::Difference& d = difference[static_cast<std::size_t>(u)];
        d.compare(p, file.floats(step + tensor + "/w"));
        ASSERT_LE(d.worst(), 1e-6) << "unit " << u << " step " << t;
      }
    }
    EXPECT_EQ(t, 13);
  }
}

TEST(ActiveUnitsTest, AreTheSameWhereARunBegins) {
  const auto policy = std::make_shared<Lisa>(LisaConfig{.activated_layers = 2, .interval_steps = 3, .drop_states = false}, 11);
  ActiveUnits straight(policy, 7);
  for (std::int64_t step = 1; step <= 20; ++step) {
    straight.move_to(step);
    ActiveUnits resumed(policy, 7);
    resumed.move_to(step);
    EXPECT_EQ(resumed.frozen(), straight.frozen());
    for (int u = 0; u < 7; ++u) EXPECT_EQ(resumed.update_number(u, step), straight.update_number(u, step)) << step;
    EXPECT_EQ(straight.update_number(0, step), step) << "the embedding is always trained";
  }
  straight.move_to(2);
  EXPECT_EQ(straight.update_number(0, 2), 2) << "back to an earlier step";
}

}  // namespace
}  // namespace strata
