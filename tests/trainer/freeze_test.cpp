// Runs that freeze units (optimizer.freeze): placement changes no bit, frozen units neither change nor move, what is planned is
// measured, a run resumes to the bit also where other units are chosen. Mutations that must fail: gradients of
// frozen units in the norm; instructions for frozen records; a resumed run that begins with the units of step 1; states that
// outlive a choice that drops them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "optim/freeze_policy.h"
#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using testing::Processor;
using Freeze = Config::Optimizer::Freeze;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

struct Policy {
  const char* name;
  Freeze config;
  Config::Optimizer::StateDtype states = Config::Optimizer::StateDtype::fp32;
};
std::vector<Policy> policies() {
  std::vector<Policy> all = {
      {"LisaDrop", {.type = Freeze::Policy::lisa, .lisa_activated_layers = 1, .lisa_interval_steps = 2}},
      {"LisaKeep",
       {.type = Freeze::Policy::lisa, .lisa_activated_layers = 2, .lisa_interval_steps = 2, .states = Freeze::States::keep}},
      {"BAdamBf16",
       {.type = Freeze::Policy::badam, .switch_block_every = 2, .switch_mode = Freeze::Mode::random},
       Config::Optimizer::StateDtype::bf16},
      {"SlimFit", {.type = Freeze::Policy::slimfit, .freezing_rate = 0.67}},
      {"SlimFitBf16Every2",
       {.type = Freeze::Policy::slimfit, .switch_block_every = 2, .freezing_rate = 0.34},
       Config::Optimizer::StateDtype::bf16}};
  if (testing::kSanitized) all = {all.front(), all[3]};
  return all;
}

Config with(const Freeze& freeze, Config c) {
  c.optimizer.freeze = freeze;
  c.training.steps = 6;
  c.training.global_batch_size = 6;
  c.scheduler.warmup_steps = 1;
  return c;
}

class FreezeOn : public ::testing::TestWithParam<std::tuple<Processor, Policy>> {
 protected:
  static const testing::GpuMachine* gpu() { return std::get<0>(GetParam()).gpu; }
  static Config config(const Placement& placement, const std::string& folder, DType compute) {
    Config c = with(std::get<1>(GetParam()).config, config_of(placement, folder, compute));
    c.optimizer.state_dtype = std::get<1>(GetParam()).states;
    if (gpu() != nullptr) c.training.global_batch_size = 2;
    return c;
  }
  static RunResult run(const Config& c, int world, int broken_off = 0) {
    return run_training(c, world, data(), nullptr, gpu(), broken_off);
  }
};

TEST_P(FreezeOn, PlacementChangesNoBitAndThePlanIsTheRun) {
  if (testing::kRacesOnly && gpu() != nullptr) GTEST_SKIP() << "the host has its threads";
  struct Way {
    Placement placement;
    int world;
  };
  Placement speculating{2, Tier::cpu, 4096, false}, on_nvme{0, Tier::nvme, 16384, false}, away{3, Tier::nvme, 4096, true};
  speculating.speculation = on_nvme.speculation = 1.0;
  speculating.delayed_share = 0.3;
  on_nvme.grads = Tier::cpu;
  away.params = away.activations = Tier::cpu;
  std::vector<Way> ways = {{speculating, 2}, {on_nvme, 1}, {{1, Tier::cpu, 16384, false}, 1}, {away, 2}};
  if (gpu() != nullptr) {
    Placement shared{3, Tier::cpu, 4096, false};
    shared.gpu_fraction = 0.5;
    ways = {{speculating, 1}, {shared, 1}, {{3, Tier::gpu, 4096, false}, 1}};
  } else {
    ways.push_back({{3, Tier::gpu, 4096, false}, 3});
  }
  if (testing::kSanitized) ways.resize(2);
  for (const DType compute : {DType::f32, DType::bf16}) {
    if ((testing::kSanitized || gpu() != nullptr) && compute == DType::f32) continue;
    RunResult reference;
    for (const Way& way : ways) {
      SCOPED_TRACE(describe(way.placement) + " " + to_string(compute) + " world " + std::to_string(way.world));
      const TemporaryFolder folder;
      const RunResult result = run(config(way.placement, folder.path(), compute), way.world);
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      ASSERT_FALSE(result.digest.empty());
      if (reference.digest.empty()) reference = result;
      EXPECT_EQ(result.digest, reference.digest);
      EXPECT_EQ(result.losses, reference.losses);
      EXPECT_EQ(result.measured_gpu, result.planned_gpu);
      EXPECT_EQ(result.measured_cpu, result.planned_cpu);
    }
  }
}

TEST_P(FreezeOn, ARunThatResumesIsTheRunThatDidNotStop) {
  if (testing::kSanitized) GTEST_SKIP() << "no threads but those above";
  const Placement placement{3, Tier::cpu, 4096, false};
  const int world = gpu() == nullptr ? 2 : 1;
  if (gpu() != nullptr && std::get<1>(GetParam()).config.type == Freeze::Policy::badam) GTEST_SKIP() << "as LisaDrop";
  const TemporaryFolder whole;
  const RunResult straight = run(config(placement, whole.path(), DType::bf16), world);
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  for (const int after : {2, 3, 4}) {             // other units are chosen after an even number of steps, or an odd one
    if (gpu() != nullptr && after > 2) continue;  // for the emulator's sake
    const TemporaryFolder halves;
    ASSERT_TRUE(run(config(placement, halves.path(), DType::bf16), world, after).status.ok());
    const RunResult resumed = run(config(placement, halves.path(), DType::bf16), world);
    ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
    EXPECT_EQ(resumed.losses.size() + static_cast<std::size_t>(after), straight.losses.size());
    EXPECT_EQ(resumed.digest, straight.digest) << after;
  }
}

INSTANTIATE_TEST_SUITE_P(Processors, FreezeOn,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::ValuesIn(policies())),
                         [](const auto& tested) {
                           return std::get<0>(tested.param).name + "_" + std::get<1>(tested.param).name;
                         });

using Values = std::map<std::string, std::vector<float>>;

// All parameters of the newest checkpoint of a run.
Values parameters(const Config& c) {
  Values values;
  const Result<std::string> found = find_checkpoint(c.run.folder);
  EXPECT_TRUE(found.ok());
  const Result<CheckpointReader> reader = CheckpointReader::open(*found);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  for (const CheckpointParam& param : reader->manifest().params) {
    values[param.name].resize(static_cast<std::size_t>(param.shape.numel()));
    EXPECT_TRUE(reader->read(param.name, kParameterState, 0, values[param.name]).ok());
  }
  return values;
}

// L1 of the parity plan, in a run: without clipping what is frozen has no part in what is trained.
TEST(FreezeRuns, TrainAsIfTheFrozenTensorsWereSkipped) {
  const TemporaryFolder frozen_folder, skipped_folder;
  Config frozen = with({.type = Freeze::Policy::lisa, .lisa_activated_layers = 1, .lisa_interval_steps = 10},
                       small_config(frozen_folder.path()));
  frozen.training.clip_grad = 0.0;
  Config skipped = frozen;
  skipped.run.folder = skipped_folder.path();
  skipped.optimizer.freeze = {};
  const std::vector<char> active = Lisa({.activated_layers = 1}, frozen.run.seed).active(5, 0, {});
  for (std::size_t block = 0; block < 3; ++block)
    if (active[block + 1] == 0) skipped.optimizer.groups.push_back("layers." + std::to_string(block) + ".* lr_scale=0");
  ASSERT_EQ(skipped.optimizer.groups.size(), 2u);
  const RunResult one = run_training(frozen, 1, data()), other = run_training(skipped, 1, data());
  ASSERT_TRUE(one.status.ok()) << one.status.message();
  ASSERT_TRUE(other.status.ok()) << other.status.message();
  EXPECT_EQ(one.losses, other.losses);
  EXPECT_EQ(parameters(frozen), parameters(skipped));
  EXPECT_LT(one.metrics.back().grad_norm, other.metrics.back().grad_norm) << "the norm is of what is trained";
}

TEST(FreezeRuns, ThePlanCountsNothingOfWhatIsFrozen) {
  const auto planned = [](const Freeze& freeze) {
    const TemporaryFolder folder;
    Config c = with(freeze, config_of({3, Tier::nvme, 4096, false}, folder.path(), DType::bf16));
    c.offload.gradient.device = Tier::cpu;
    const RunResult run = run_training(c, 1, data());
    EXPECT_TRUE(run.status.ok()) << run.status.message();
    return *run.plan;
  };
  const Plan all = planned({}), badam = planned({.type = Freeze::Policy::badam, .switch_block_every = 100});
  const UpdateSchedule& schedule = badam.update.schedule;
  std::set<int> updated;
  for (const Instruction& i : schedule.instructions)
    updated.insert(schedule.shape.records[static_cast<std::size_t>(i.record)].unit);
  EXPECT_EQ(updated, (std::set<int>{3})) << "descending: the last block";
  double bytes = 0.0;
  for (std::size_t r = 0; r < schedule.shape.records.size(); ++r)
    if (schedule.shape.records[r].unit == 3) bytes += state_bytes(schedule.shape, r);
  EXPECT_EQ(static_cast<double>(nvme_bytes_per_step(badam)), bytes);
  EXPECT_LT(nvme_bytes_per_step(badam), nvme_bytes_per_step(all) / 3);
}

TEST(FreezeRuns, StatesThatAreDroppedTakeTheMemoryOfThoseThatAreTrained) {
  const auto planned = [](const Freeze& freeze, Tier home) {
    const TemporaryFolder folder;
    const Config c = with(freeze, config_of({3, home, 4096, false}, folder.path(), DType::bf16));
    const RunResult run = run_training(c, 1, data());
    EXPECT_TRUE(run.status.ok()) << run.status.message();
    EXPECT_EQ(run.planned_cpu, run.measured_cpu);
    return *run.plan;
  };
  const auto bytes = [](const Plan& plan, Tier home) {
    return static_cast<double>(
        (home == Tier::gpu ? plan.gpu : plan.cpu).peak_by[static_cast<std::size_t>(Category::optimizer)]);
  };
  const Freeze lisa{.type = Freeze::Policy::lisa, .lisa_activated_layers = 1, .lisa_interval_steps = 2};
  for (const Tier home : {Tier::cpu, Tier::gpu}) {
    const Plan all = planned({}, home);
    std::map<int, double> states;  // of each unit
    for (const OptimizerRecord& record : all.update.schedule.shape.records)
      states[record.unit] += 8.0 * static_cast<double>(record.states);
    const double padding = 4096.0 * static_cast<double>(all.records);
    EXPECT_NEAR(bytes(all, home) - bytes(planned(lisa, home), home), states[1] + states[2], padding);
    EXPECT_NEAR(bytes(all, home) - bytes(planned({.type = Freeze::Policy::badam}, home), home),
                states[0] + states[1] + states[2] + states[4], padding);
  }
}

TEST(FreezeCheckpoints, OfAnotherPolicyAreRefused) {
  const TemporaryFolder folder;
  const Freeze lisa{.type = Freeze::Policy::lisa, .lisa_activated_layers = 1, .lisa_interval_steps = 2};
  Config c = with(lisa, small_config(folder.path()));
  c.training.steps = 3;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  const auto refused = [](const Config& other, const char* rule) {
    const Status status = run_training(other, 1, data()).status;
    EXPECT_EQ(status.code(), Code::invalid_config) << rule;
    EXPECT_THAT(status.message(), HasSubstr("froze units by another rule (lisa: 1 blocks for 2 steps, states drop, seed"));
    EXPECT_THAT(status.message(), HasSubstr(std::string("; this run: ") + rule));
  };
  Config other = c;
  other.optimizer.freeze = {};
  refused(other, "none");
  other.optimizer.freeze = {.type = Freeze::Policy::badam};
  refused(other, "badam: descending blocks for 50 steps");
  other.optimizer.freeze = lisa;
  other.optimizer.freeze.lisa_interval_steps = 4;
  refused(other, "lisa: 1 blocks for 4 steps");
  other.optimizer.freeze = lisa;
  other.optimizer.freeze.states = Freeze::States::keep;
  refused(other, "lisa: 1 blocks for 2 steps, states keep");
  EXPECT_TRUE(run_training(c, 1, data()).status.ok());
}

TEST(FreezeConfig, WhatDoesNotGoTogetherIsAnError) {
  const auto problem = [](const Freeze& freeze, Config::Optimizer::Type type = Config::Optimizer::Type::adamw) {
    const TemporaryFolder folder;
    Config c = with(freeze, small_config(folder.path()));
    c.optimizer.type = type;
    return run_training(c, 1, data()).status.message();
  };
  EXPECT_THAT(problem({.lisa_interval_steps = 3}), HasSubstr("optimizer.freeze.lisa_interval_steps: only lisa has it"));
  EXPECT_THAT(problem({.type = Freeze::Policy::lisa, .switch_block_every = 3}),
              HasSubstr("optimizer.freeze.switch_block_every: only badam has it"));
  EXPECT_THAT(problem({.states = Freeze::States::keep}), HasSubstr("optimizer.freeze.states: only"));
  EXPECT_THAT(problem({.type = Freeze::Policy::badam, .states = Freeze::States::keep}),
              HasSubstr("optimizer.freeze.states: badam drops them"));
  EXPECT_THAT(problem({.type = Freeze::Policy::lisa, .lisa_activated_layers = 4}),
              HasSubstr("optimizer.freeze.lisa_activated_layers: the model has fewer blocks: 4 > 3"));
  EXPECT_THAT(problem({.type = Freeze::Policy::lisa}, Config::Optimizer::Type::frugal),
              HasSubstr("optimizer.freeze.type: frugal chooses states or projections for all units at once"));
}

}  // namespace
}  // namespace strata
