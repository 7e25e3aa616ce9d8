// Which units are trained when, against what the authors' code of LISA and BAdam chose (make_schedule_vectors.py) and what
// SlimFit's would, and small runs of LISA with its draws. Mutations caught: a first block of BAdam with as many steps as the
// others, a permutation used from its beginning, updates counted while a unit is frozen; distances sorted the other way, the
// last of equal ones, a rounded count, distances of the first choice that a resumed run sees again; bias
// corrections that go on where states were dropped.
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
  const std::vector<char> flags = policy.active(units, choice, policy.first_distances(units));
  EXPECT_EQ(flags.size(), static_cast<std::size_t>(units));
  for (int u = 0; u < units; ++u)
    if (flags[static_cast<std::size_t>(u)] != 0) active.insert(u);
  return active;
}

std::set<int> frozen_blocks(const ActiveUnits& units) {
  std::set<int> blocks;
  for (int b = 0; units.is_block(b + 1); ++b)
    if (units.is_frozen(b + 1)) blocks.insert(b);
  return blocks;
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

// With masters made anew of the 16-bit weights at each switch, as theirs, the 16-bit weights are theirs to the bit.
TEST(BAdamPolicy, AdamWOfTheBlockItTrainsGivesTheAuthorsWeights) {
  const vector_file::File file("schedules.bin");
  for (const std::string which : {"badam/random", "badam/ascending", "badam/descending"}) {
    SCOPED_TRACE(which);
    const BAdam policy({.switch_block_every = static_cast<std::int64_t>(file.number(which + "/K"))}, 1);
    const AdamW adamw({file.number(which + "/h/beta1"), file.number(which + "/h/beta2"), file.number(which + "/h/eps")});
    const ParamGroup group{.weight_decay = file.number(which + "/h/weight_decay")};
    struct Tensor {
      std::vector<float> master, m, v;
      std::vector<bf16> weights;
      vector_file::Difference difference;
    };
    std::vector<Tensor> tensors;
    for (int i = 0; i < static_cast<int>(file.number(which + "/tensors")); ++i) {
      Tensor& tensor = tensors.emplace_back();
      for (const float x : file.floats(which + "/tensor" + std::to_string(i) + "/w0")) tensor.weights.push_back(to_bf16(x));
    }
    const std::vector<double> rates = file.learning_rates(which);
    const std::vector<std::int64_t> blocks = file.integers(which + "/blocks");
    for (std::int64_t t = 1; t <= std::ssize(rates); ++t) {
      const auto at = static_cast<std::size_t>(t - 1);
      const std::int64_t first = policy.first_step(policy.choice(t));
      for (const std::int64_t i : {2 * blocks[at], 2 * blocks[at] + 1}) {  // a weight and a bias
        auto& [master, m, v, weights, difference] = tensors[static_cast<std::size_t>(i)];
        const std::string step = which + "/step" + std::to_string(t) + "/tensor" + std::to_string(i);
        if (t == first) {
          master.clear();
          for (const bf16 x : weights) master.push_back(to_float(x));
          m = v = std::vector<float>(master.size());
          difference.track(master);
        }
        const std::vector<float> g = file.floats(step + "/g");
        adamw.update(
            {.p = master.data(), .states = {m.data(), v.data()}, .g = g.data(), .p16 = weights.data(), .n = std::ssize(master)},
            {.number = t - first + 1, .lr = rates[at]}, group);
        difference.compare(master, file.floats(step + "/master"));
        ASSERT_LE(difference.worst(), 1e-6) << step;
        const std::vector<float> wanted = file.floats(step + "/w");
        for (std::size_t k = 0; k < wanted.size(); ++k) ASSERT_EQ(to_float(weights[k]), wanted[k]) << step << " " << k;
      }
    }
    EXPECT_EQ(std::ssize(rates), 14);
  }
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
  std::vector<char> active(int units, std::int64_t choice, std::span<const double>) const override {
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

// The authors' loop (sort, freeze the first int(rate * n), replace d of the others) with d as recorded; their sort leaves the
// order of equal ones open, here it is that of the blocks.
TEST(SlimFitPolicy, FreezesTheBlocksOfTheSmallestDistances) {
  struct Step {
    std::set<int> frozen;
    std::vector<double> distances;  // of the others' updates
  };
  const std::vector<double> first = {3.39564e9, 9.93909e9, 1.58177e9, 4.14003e9, 6.82555e9, 5.0632e8};
  const std::vector<Step> recorded = {
      {{0, 2, 5}, {0.25, 0.75, 0.03125}}, {{1, 3, 4}, {0.25, 0.5, 0.03125}},  {{0, 4, 5}, {0.25, 0.03125, 0.125}},
      {{2, 4, 5}, {0.25, 0.25, 0.0625}},  {{2, 4, 5}, {0.0625, 0.25, 0.125}}, {{2, 4, 5}, {0.25, 0.03125, 0.0625}},
      {{1, 2, 4}, {0.25, 0.75, 0.03125}}, {{1, 2, 4}, {0.25, 0.125, 0.0}},
  };
  ActiveUnits units(std::make_shared<SlimFit>(SlimFitConfig{.freezing_rate = 0.55}, 1), 8);
  for (int b = 0; b < 6; ++b) units.set_distance(b + 1, first[static_cast<std::size_t>(b)]);
  std::int64_t t = 0;
  for (const Step& step : recorded) {
    units.move_to(++t);
    ASSERT_EQ(frozen_blocks(units), step.frozen) << "step " << t;
    EXPECT_TRUE(units.measures(t));
    auto next = step.distances.begin();
    for (int u = 1; u < 7; ++u)
      if (!units.is_frozen(u)) units.set_distance(u, *next++);
  }
  EXPECT_EQ(units.updates_done(t), (std::vector<std::int64_t>{8, 6, 5, 2, 7, 1, 3, 8}));
  EXPECT_EQ(units.update_number(4, t), 7);
}

TEST(SlimFitPolicy, OfEqualDistancesFreezesTheFirstAndCountsDown) {
  const auto frozen = [](double rate, std::vector<double> d) {
    d.insert(d.begin(), 0.0);  // of embedding and head none counts
    d.push_back(0.0);
    const SlimFit policy({.freezing_rate = rate}, 1);
    const std::vector<char> active = policy.active(static_cast<int>(std::ssize(d)), 0, d);
    EXPECT_EQ(policy.blocks_at_once(static_cast<int>(std::ssize(d))), std::count(active.begin(), active.end(), 1) - 2);
    std::set<int> blocks;
    for (std::size_t u = 0; u < active.size(); ++u)
      if (active[u] == 0) blocks.insert(static_cast<int>(u) - 1);
    return blocks;
  };
  EXPECT_EQ(frozen(0.5, {1, 1, 1, 1, 1}), (std::set<int>{0, 1}));
  EXPECT_EQ(frozen(0.75, {0.5, 0.25, 0.5, 0.5}), (std::set<int>{0, 1, 2}));
  EXPECT_EQ(frozen(0.74, {0.5, 0.25, 0.5, 0.5}), (std::set<int>{0, 1}));
  EXPECT_EQ(frozen(0.2, {0.5, 0.25, 0.5, 0.5}), (std::set<int>{}));
  EXPECT_EQ(frozen(0.9, {4, 3, 2, 1, 0, 9, 8, 7, 6, 5}), (std::set<int>{0, 1, 2, 3, 4, 6, 7, 8, 9}));
  EXPECT_EQ(slimfit_frozen(0.29, 100), 28) << "as int(0.29 * 100)";
}

TEST(SlimFitPolicy, TrainsEveryBlockBeforeItTrainsOneTwice) {
  std::set<std::set<int>> firsts;
  for (const std::uint64_t seed : {1, 2, 3, 4}) {
    ActiveUnits units(std::make_shared<SlimFit>(SlimFitConfig{.freezing_rate = 0.75}, seed), 10);
    std::set<int> trained;
    for (std::int64_t step = 1; step <= 4; ++step) {
      units.move_to(step);
      if (step == 1) firsts.insert(frozen_blocks(units));
      for (int u = 1; u < 9; ++u)
        if (!units.is_frozen(u)) {
          EXPECT_TRUE(trained.insert(u).second) << u;
          units.set_distance(u, 1.0);  // the largest there is
        }
    }
    EXPECT_EQ(trained.size(), 8u);
  }
  EXPECT_GT(firsts.size(), 1u) << "the seed counts";
}

TEST(SlimFitPolicy, MeasuresOnlyWhatTheNextChoiceSees) {
  const auto policy = std::make_shared<SlimFit>(SlimFitConfig{.freezing_rate = 0.5, .switch_block_every = 3}, 5);
  ActiveUnits straight(policy, 6);
  const auto move = [](ActiveUnits& units, std::int64_t step) {
    units.move_to(step);
    EXPECT_EQ(units.measures(step), step % 3 == 0) << step;
    for (int u = 1; u < 5; ++u)
      if (units.measures(step) && !units.is_frozen(u)) units.set_distance(u, static_cast<double>(step * u % 5) / 5);
  };
  for (std::int64_t step = 1; step <= 20; ++step) {
    move(straight, step);
    ActiveUnits resumed(policy, 6);
    const bool changed = resumed.resume(step, straight.frozen(), straight.updates_done(step), straight.distances());
    EXPECT_TRUE(changed) << "from nothing";
    ActiveUnits on = straight;
    for (std::int64_t later = step + 1; later < step + 8; ++later) {
      move(on, later), move(resumed, later);
      EXPECT_EQ(resumed.frozen(), on.frozen());
      for (int u = 0; u < 6; ++u) EXPECT_EQ(resumed.update_number(u, later), on.update_number(u, later)) << step << later;
    }
  }
  EXPECT_EQ(straight.update_number(0, 20), 20) << "the embedding is always trained";
  straight.move_to(2);
  ActiveUnits anew(policy, 6);
  anew.move_to(1);
  EXPECT_EQ(straight.frozen(), anew.frozen()) << "back to the first choice";
  EXPECT_EQ(straight.updates_done(0), anew.updates_done(0));
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
