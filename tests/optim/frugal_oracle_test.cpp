// The authors' FRUGAL (make_frugal_vectors.py), step by step: weights and states to 1e-6. Mutations caught: counts rounded,
// states kept at a refresh, the bias correction not begun anew, decay by the scaled learning rate or after the step, the sign
// of zero, a state one place off, the wrong scale for elements without states, a refresh one step late;
// what is not projected refreshed, or at the scaled learning rate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "optim/frugal.h"
#include "optim/frugal_blocks.h"
#include "vector_file.h"

namespace strata {
namespace {

constexpr double kTolerance = 1e-6;

struct Settings {
  FrugalConfig config;
  ParamGroup group;
};

Settings settings_of(const vector_file::File& file, const std::string& which) {
  const auto number = [&](const std::string& name) { return file.number(which + "/h/" + name); };
  Settings settings;
  FrugalConfig& c = settings.config;
  c.density = number("density");
  c.update_gap = static_cast<std::int64_t>(number("gap"));
  c.reset_statistics = number("reset") != 0.0;
  c.inactive_lr_scale = number("inactive_lr_scale");
  c.proj_params_lr_scale = number("proj_params_lr_scale");
  const std::string rule = file.text(which + "/h/rule");
  c.state_free = rule == "no" ? StateFreeRule::none : rule == "sgd" ? StateFreeRule::sgd : StateFreeRule::sign_sgd;
  c.choice = FrugalChoice::tensors;
  if (file.has(which + "/h/choice")) {
    const std::string choice = file.text(which + "/h/choice");
    c.choice = choice == "columns" ? FrugalChoice::columns : choice == "rows" ? FrugalChoice::rows : FrugalChoice::entries;
  }
  if (file.has(which + "/h/momentum"))
    c.stateful = FrugalMomentumConfig{number("momentum")};
  else if (file.has(which + "/h/eps"))
    c.stateful = AdamWConfig{.beta1 = number("beta1"), .beta2 = number("beta2"), .eps = number("eps")};
  else
    c.stateful = LionConfig{.beta1 = number("beta1"), .beta2 = number("beta2")};
  settings.group.weight_decay = number("weight_decay");
  settings.group.projected = true;
  return settings;
}

StatefulKind kind_of(FrugalChoice choice) {
  return choice == FrugalChoice::columns ? StatefulKind::columns
         : choice == FrugalChoice::rows  ? StatefulKind::rows
                                         : StatefulKind::entries;
}

// For each of our states the place of the authors', whose columns, rows or entries are in the order of a list.
std::vector<std::size_t> authors_places(const StatefulSet& set, const std::vector<std::int64_t>& list) {
  std::vector<std::size_t> places;
  for (std::int64_t e = 0; e < set.rows() * set.columns(); ++e) {
    if (states_before(set.map(), e + 1) == states_before(set.map(), e)) continue;
    const std::int64_t row = e / set.columns(), column = e % set.columns();
    const std::int64_t number = set.map().kind == StatefulKind::columns ? column
                                : set.map().kind == StatefulKind::rows  ? row
                                                                        : e;
    const auto place = std::find(list.begin(), list.end(), number) - list.begin();
    const auto k = static_cast<std::int64_t>(list.size());
    places.push_back(static_cast<std::size_t>(set.map().kind == StatefulKind::columns ? row * k + place
                                              : set.map().kind == StatefulKind::rows  ? place * set.columns() + column
                                                                                      : place));
  }
  return places;
}

// Ours to the authors' order, or back.
void reorder(std::vector<float>& states, const std::vector<std::size_t>& places, bool to_authors) {
  std::vector<float> moved(states.size());
  for (std::size_t i = 0; i < places.size(); ++i)
    (to_authors ? moved[places[i]] : moved[i]) = states[to_authors ? i : places[i]];
  states = moved;
}

void replay(const vector_file::File& file, const std::string& which) {
  SCOPED_TRACE(which);
  const auto [config, group] = settings_of(file, which);
  const Frugal frugal(config);
  const std::vector<double> rates = file.learning_rates(which);
  const auto& dims = file[which + "/w0"].dims;
  std::vector<float> w = file.floats(which + "/w0");
  vector_file::Difference weights, first, second;
  weights.track(w);
  StatefulSet set = StatefulSet::none(dims[0], dims[1]);
  std::vector<std::size_t> places;
  std::vector<float> m, v;
  int compared = 0;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const auto t = static_cast<std::int64_t>(i) + 1;
    const std::string step = which + "/step" + std::to_string(t) + "/";
    const std::vector<float> g = file.gradient(which, t);
    const FrugalPeriod period = frugal_period(config, t);
    ASSERT_EQ(period.begins, file.has(step + "indices")) << "step " << t;
    UpdateStep update{.number = t, .lr = rates[i]};
    if (period.begins) {
      const std::vector<std::int64_t> list = file.integers(step + "indices");
      ASSERT_EQ(frugal_count(config.choice, dims[0], dims[1], config.density), std::ssize(list));
      // States that are kept pass in the order of their lists.
      reorder(m, places, true);
      reorder(v, places, true);
      set = StatefulSet::of(kind_of(config.choice), dims[0], dims[1], list);
      places = authors_places(set, list);
      m.resize(places.size());
      v.resize(places.size());
      reorder(m, places, false);
      reorder(v, places, false);
    }
    if (period.states_are_zero) {  // whatever is stored
      std::fill(m.begin(), m.end(), 1e30f);
      std::fill(v.begin(), v.end(), std::nanf(""));
    }
    if (std::holds_alternative<FrugalMomentumConfig>(config.stateful) && period.begins) {
      // The authors' buffer begins as a copy of the gradient: as if one more step had been made before, without moving
      // anything.
      std::vector<float> copy = w;
      const UpdateSlice range{.p = copy.data(), .states = {m.data()}, .g = g.data(), .n = std::ssize(w)};
      frugal.update(stateful_slice(set, range, 0), update, group);
      FrugalConfig goes_on = config;
      goes_on.reset_statistics = false;
      goes_on.update_gap = 1000;
      const UpdateSlice next{.p = w.data(), .states = {m.data()}, .g = g.data(), .n = std::ssize(w)};
      update.number = 2;
      Frugal(goes_on).update(stateful_slice(set, next, 0), update, group);
    } else {
      const UpdateSlice range{.p = w.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = std::ssize(w)};
      frugal.update(stateful_slice(set, range, 0), update, group);
    }
    weights.compare(w, file.floats(step + "w"));
    for (auto& [name, states, difference] : {std::tuple(std::string("m"), &m, &first), {"v", &v, &second}}) {
      std::vector<float> ours = *states;
      reorder(ours, places, true);
      difference->track(ours);
      if (!file.has(step + name)) continue;
      difference->compare(ours, file.floats(step + name));
      ++compared;
    }
    ASSERT_LE(weights.worst(), kTolerance) << "weights, step " << t;
    ASSERT_LE(first.worst(), kTolerance) << "m, step " << t;
    ASSERT_LE(second.worst(), kTolerance) << "v, step " << t;
  }
  EXPECT_TRUE(compared > 0 || which == "edge/density0");
}

TEST(FrugalOracle, ColumnsRowsAndEntriesAreTheAuthors) {
  const vector_file::File file("frugal.bin");
  int cases = 0;
  for (const char* family : {"coord", "edge", "lion", "sgd"}) {
    for (const std::string& which : file.cases(family)) {
      replay(file, which);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 13);
}

// In the first step of a period all elements take a step of the learning rate against their gradient's sign.
TEST(FrugalOracle, TheFirstStepAfterAResetIsTheSignOfTheGradient) {
  const vector_file::File file("frugal.bin");
  for (const char* which : {"coord/columns_tall", "coord/randk"}) {
    const auto [config, group] = settings_of(file, which);
    const std::vector<double> rates = file.learning_rates(which);
    const auto& dims = file[std::string(which) + "/w0"].dims;
    for (std::int64_t t = 1; t <= std::ssize(rates); t += config.update_gap) {
      const std::string step = std::string(which) + "/step" + std::to_string(t);
      const StatefulSet set = StatefulSet::of(kind_of(config.choice), dims[0], dims[1], file.integers(step + "/indices"));
      const std::vector<float> g = file.gradient(which, t);
      std::vector<float> w(g.size()), m(static_cast<std::size_t>(set.states()), 3.0f), v = m;
      const UpdateSlice range{.p = w.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = std::ssize(w)};
      const double lr = rates[static_cast<std::size_t>(t) - 1];
      Frugal(config).update(stateful_slice(set, range, 0), {.number = t, .lr = lr}, {.projected = true});
      for (std::size_t i = 0; i < g.size(); ++i) {
        if (std::abs(g[i]) > 1e-4f) {
          ASSERT_NEAR(w[i], g[i] > 0.0f ? -lr : lr, 1e-4 * lr) << step << ", element " << i;
        }
      }
    }
  }
}

// AdamW itself: of a tensor that is not projected, at its own rate and without refreshes; and where all columns have states,
// to the bit.
TEST(FrugalOracle, WhatHasStatesEverywhereIsAdamW) {
  const vector_file::File file("frugal.bin");
  for (const char* which : {"regular/vector", "edge/density1"}) {
    SCOPED_TRACE(which);
    const auto number = [&](const char* name) { return file.number(std::string(which) + "/h/" + name); };
    const AdamWConfig adamw{.beta1 = number("beta1"), .beta2 = number("beta2"), .eps = number("eps")};
    const bool projected = which == std::string("edge/density1");
    const FrugalConfig config{.density = projected ? 1.0 : 0.25,
                              .update_gap = projected ? 200 : 5,
                              .proj_params_lr_scale = projected ? 1.0 : 0.25,
                              .stateful = adamw};
    const ParamGroup group{.weight_decay = number("weight_decay"), .projected = projected};
    std::vector<float> w = file.floats(std::string(which) + "/w0"), m(w.size(), projected ? 3.0f : 0.0f), v = m;
    std::vector<float> plain_w = w, plain_m(w.size()), plain_v(w.size());
    vector_file::Difference weights;
    weights.track(w);
    std::int64_t t = 0;
    for (const double lr : file.learning_rates(which)) {
      const std::vector<float> g = file.gradient(which, ++t);
      const UpdateStep step{.number = t, .lr = lr};
      const UpdateSlice range{.p = w.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = std::ssize(w)};
      Frugal(config).update(stateful_slice(StatefulSet::all(1, std::ssize(w)), range, 0), step, group);
      AdamW(adamw).update({.p = plain_w.data(), .states = {plain_m.data(), plain_v.data()}, .g = g.data(), .n = std::ssize(w)},
                          step, group);
      ASSERT_EQ(w, plain_w) << "step " << t;
      weights.compare(w, file.floats(std::string(which) + "/step" + std::to_string(t) + "/w"));
      ASSERT_LE(weights.worst(), kTolerance) << "step " << t;
    }
  }
}

TEST(FrugalOracle, WholeTensorsAreTheAuthors) {
  const vector_file::File file("frugal.bin");
  for (const char* order : {"descending", "ascending", "mirror", "random", "all"}) {
    const std::string which = std::string("block/") + order;
    SCOPED_TRACE(which);
    const auto [config, group] = settings_of(file, which);
    const Frugal frugal(config);
    const std::string name = file.text(which + "/h/block_order");
    const BlockOrder block_order = name == "ascending" ? BlockOrder::ascending
                                   : name == "mirror"  ? BlockOrder::mirror
                                   : name == "random"  ? BlockOrder::random
                                                       : BlockOrder::descending;
    const auto tensors = static_cast<std::int64_t>(file.number(which + "/tensors"));
    const std::int64_t count = active_block_count(block_order, tensors, config.density).value();
    ASSERT_EQ(count, static_cast<std::int64_t>(file.number(which + "/count")));
    const std::vector<double> rates = file.learning_rates(which);

    struct Tensor {
      std::string name;
      std::vector<float> w, m, v;
      vector_file::Difference difference;
    };
    std::vector<Tensor> all;
    for (std::int64_t i = 0; i < tensors; ++i) {
      const std::string tensor = "tensor" + std::to_string(i);
      std::vector<float> w = file.floats(which + "/" + tensor + "/w0");
      all.push_back(
          {tensor, w, std::vector<float>(w.size(), 7.0f), std::vector<float>(w.size(), 7.0f), vector_file::Difference()});
      all.back().difference.track(w);
    }
    std::vector<std::int64_t> active;
    for (std::size_t s = 0; s < rates.size(); ++s) {
      const auto t = static_cast<std::int64_t>(s) + 1;
      const std::string step = which + "/step" + std::to_string(t) + "/";
      const FrugalPeriod period = frugal_period(config, t);
      if (period.begins) {
        const std::vector<std::int64_t> theirs = file.integers(step + "active");
        // PyTorch's permutations are frugal_blocks_test's.
        active = block_order == BlockOrder::random ? theirs : active_blocks(block_order, tensors, count, period.refresh, 0);
        ASSERT_EQ(active, theirs) << "step " << t;
      }
      for (std::size_t i = 0; i < all.size(); ++i) {
        Tensor& tensor = all[i];
        const auto n = std::ssize(tensor.w);
        const bool is_active = std::find(active.begin(), active.end(), static_cast<std::int64_t>(i)) != active.end();
        const std::vector<float> g = file.gradient(which + "/" + tensor.name, t);
        const UpdateSlice range{.p = tensor.w.data(), .states = {tensor.m.data(), tensor.v.data()}, .g = g.data(), .n = n};
        const StatefulSet set = is_active ? StatefulSet::all(1, n) : StatefulSet::none(1, n);
        frugal.update(stateful_slice(set, range, 0), {.number = t, .lr = rates[s]}, group);
        tensor.difference.compare(tensor.w, file.floats(step + tensor.name + "/w"));
        ASSERT_LE(tensor.difference.worst(), kTolerance) << tensor.name << ", step " << t;
      }
    }
  }
}

}  // namespace
}  // namespace strata
