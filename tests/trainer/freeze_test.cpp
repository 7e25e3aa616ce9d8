// Runs that freeze units (optimizer.freeze): placement changes no bit, frozen units neither change nor move, what is planned is
// measured, a run resumes to the bit also where other units are chosen. Mutations that must fail: gradients of
// frozen units in the norm; instructions for frozen records; a resumed run that begins with the units of step 1; states that
// outlive a choice that drops them; distances of the bf16 copies, of a guess that was dropped, of one rank's records alone, or
// of the step before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/text_file.h"
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

// What the newest checkpoint of a run says of the units.
struct MeasuredUnits {
  std::vector<std::string> trained;
  std::vector<std::int64_t> updates;
  std::vector<double> distances;
  bool operator==(const MeasuredUnits&) const = default;
};
MeasuredUnits units_of(const Manifest& manifest) { return {manifest.trained, manifest.unit_updates, manifest.unit_distances}; }
MeasuredUnits measured_units(const std::string& folder) {
  const Result<std::string> found = find_checkpoint(folder);
  EXPECT_TRUE(found.ok());
  const Result<Manifest> manifest = read_manifest(*found);
  EXPECT_TRUE(manifest.ok());
  return units_of(*manifest);
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
  // What another instance of the suite shows, too slow on the emulator.
  static bool is_shown_elsewhere() {
    const Freeze& freeze = std::get<1>(GetParam()).config;
    return gpu() != nullptr && freeze.type == Freeze::Policy::slimfit && freeze.switch_block_every > 1;
  }
  static RunResult run(const Config& c, int world, int broken_off = 0) {
    return run_training(c, world, data(), nullptr, gpu(), broken_off);
  }
};

TEST_P(FreezeOn, PlacementChangesNoBitAndThePlanIsTheRun) {
  if (testing::kRacesOnly && gpu() != nullptr) GTEST_SKIP() << "the host has its threads";
  if (is_shown_elsewhere()) GTEST_SKIP() << "as SlimFit";
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
    MeasuredUnits measured;
    for (const Way& way : ways) {
      SCOPED_TRACE(describe(way.placement) + " " + to_string(compute) + " world " + std::to_string(way.world));
      const TemporaryFolder folder;
      const RunResult result = run(config(way.placement, folder.path(), compute), way.world);
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      ASSERT_FALSE(result.digest.empty());
      if (reference.digest.empty()) reference = result;
      EXPECT_EQ(result.digest, reference.digest);
      EXPECT_EQ(result.losses, reference.losses);
      const MeasuredUnits units = measured_units(folder.path());
      if (&way == &ways.front()) measured = units;
      EXPECT_EQ(units, measured);
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
  if (is_shown_elsewhere()) GTEST_SKIP() << "as SlimFit";
  const TemporaryFolder whole;
  const RunResult straight = run(config(placement, whole.path(), DType::bf16), world);
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  for (const int after : {2, 3, 4}) {             // other units are chosen after an even number of steps, or an odd one
    if (gpu() != nullptr && after > 2) continue;  // for the emulator's sake
    const TemporaryFolder halves;
    ASSERT_TRUE(run(config(placement, halves.path(), DType::bf16), world, after).status.ok());
    const int world_then = gpu() == nullptr && after == 3 ? 3 : world;
    const RunResult resumed = run(config(placement, halves.path(), DType::bf16), world_then);
    ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
    EXPECT_EQ(resumed.losses.size() + static_cast<std::size_t>(after), straight.losses.size());
    EXPECT_EQ(resumed.digest, straight.digest) << after;
    EXPECT_EQ(measured_units(halves.path()), measured_units(whole.path())) << after;
  }
}

INSTANTIATE_TEST_SUITE_P(Processors, FreezeOn,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::ValuesIn(policies())),
                         [](const auto& tested) {
                           return std::get<0>(tested.param).name + "_" + std::get<1>(tested.param).name;
                         });

using Values = std::map<std::string, std::vector<float>>;

// All parameters of a checkpoint, or of the newest one of a run.
Values parameters(const std::string& path) {
  Values values;
  const Result<std::string> found = find_checkpoint(path);
  EXPECT_TRUE(found.ok());
  const Result<CheckpointReader> reader = CheckpointReader::open(*found);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  for (const CheckpointParam& param : reader->manifest().params) {
    values[param.name].resize(static_cast<std::size_t>(param.shape.numel()));
    EXPECT_TRUE(reader->read(param.name, kParameterState, 0, values[param.name]).ok());
  }
  return values;
}

// By the definition, of the parameters whose names begin so.
double distance(const Values& before, const Values& after, const std::string& prefix) {
  double sum = 0.0;
  std::size_t n = 0;
  for (const auto& [name, old] : before) {
    if (!name.starts_with(prefix)) continue;
    for (std::size_t i = 0; i < old.size(); ++i) {
      const float change = std::min(std::fabs((old[i] - after.at(name)[i]) / old[i]), 1.0f);
      if (old[i] != 0.0f) sum += std::nearbyint(static_cast<double>(change) * 0x1p30);
    }
    n += old.size();
  }
  return sum / (static_cast<double>(n) * 0x1p30);
}

// In a run: without clipping what is frozen has no part in what is trained.
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
  EXPECT_EQ(parameters(frozen.run.folder), parameters(skipped.run.folder));
  EXPECT_LT(one.metrics.back().grad_norm, other.metrics.back().grad_norm) << "the norm is of what is trained";
}

// Every step's checkpoint against the ones before.
TEST(SlimFitRuns, FreezeTheBlocksWhoseMasterWeightsChangedLeast) {
  const TemporaryFolder folder;
  Config c = with({.type = Freeze::Policy::slimfit, .freezing_rate = 0.67},
                  config_of({2, Tier::cpu, 4096, false}, folder.path(), DType::bf16));
  c.training.steps = 8;
  c.checkpoint.interval = 1;
  c.checkpoint.keep_last = 0;
  ASSERT_TRUE(run_training(c, 2, data()).status.ok());
  std::set<std::string> trained;
  MeasuredUnits before;
  Values p_before;
  for (int step = 1; step <= 8; ++step) {
    SCOPED_TRACE(step);
    const std::string path = folder.path() + "/checkpoints/step_" + std::to_string(step);
    const Result<Manifest> manifest = read_manifest(path);
    ASSERT_TRUE(manifest.ok()) << manifest.status().message();
    const MeasuredUnits now = units_of(*manifest);
    Values p = parameters(path);
    ASSERT_EQ(now.trained.size(), 3u);
    const auto is_trained = [&](std::size_t u) { return now.trained[1] == "layers." + std::to_string(u - 1); };
    EXPECT_TRUE(!trained.contains(now.trained[1]) || step > 3) << "every block has its turn first";
    trained.insert(now.trained[1]);
    for (std::size_t u = 1; u < 4 && step > 1; ++u) {
      EXPECT_EQ(now.updates[u], before.updates[u] + (is_trained(u) ? 1 : 0));
      for (std::size_t other = 1; other < 4; ++other)
        EXPECT_TRUE(!is_trained(u) || before.distances[u] >= before.distances[other]);
      EXPECT_EQ(now.distances[u],
                is_trained(u) ? distance(p_before, p, "layers." + std::to_string(u - 1) + ".") : before.distances[u]);
    }
    EXPECT_EQ(now.updates.front(), step);
    EXPECT_EQ(now.updates.back(), step);
    before = now;
    p_before = std::move(p);
  }
  EXPECT_EQ(trained.size(), 3u);
}

TEST(SlimFitRuns, GuessesLeaveNoDistances) {
  MeasuredUnits reference;
  std::string digest;
  for (const double clip : {0.01, 100.0})
    for (const bool guesses : {false, true})
      for (const Tier home : {Tier::cpu, Tier::nvme}) {
        if (home == Tier::nvme && !guesses) continue;
        const TemporaryFolder folder;
        Placement placement{2, home, 4096, false};
        placement.speculation = guesses ? 1.0 : 0.0;
        Config c =
            with({.type = Freeze::Policy::slimfit, .freezing_rate = 0.67}, config_of(placement, folder.path(), DType::bf16));
        c.training.clip_grad = clip;
        const RunResult run = run_training(c, 1, data());
        ASSERT_TRUE(run.status.ok()) << run.status.message();
        for (const StepMetrics& m : run.metrics)
          EXPECT_EQ(m.guess, !guesses ? Guess::none : clip < 1.0 ? Guess::dropped : Guess::kept);
        if (!guesses) {
          reference = measured_units(folder.path());
          digest = run.digest;
        }
        EXPECT_EQ(measured_units(folder.path()), reference);
        EXPECT_EQ(run.digest, digest);
      }
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

TEST(FreezeCheckpoints, WithoutTheDistancesThatSlimFitNeedsAreRefused) {
  const TemporaryFolder folder;
  Config c = with({.type = Freeze::Policy::slimfit, .freezing_rate = 0.67}, small_config(folder.path()));
  c.training.steps = 3;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  Config other = c;
  other.optimizer.freeze.freezing_rate = 0.34;
  EXPECT_THAT(run_training(other, 1, data()).status.message(),
              HasSubstr("another rule (slimfit: 0.67 of the blocks frozen for 1 steps, seed 1234; this run: slimfit: 0.34 of"));
  const std::string path = folder.path() + "/checkpoints/step_3/manifest.json";
  const std::string whole = read_text_file(path).value();
  const auto refused = [&](const std::string& from, const std::string& to, const char* message) {
    std::string changed = whole;
    ASSERT_NE(changed.find(from), std::string::npos);
    ASSERT_TRUE(write_text_file(path, changed.replace(changed.find(from), from.size(), to)).ok());
    const Status status = run_training(c, 2, data()).status;
    EXPECT_EQ(status.code(), Code::corrupt);
    EXPECT_THAT(status.message(), HasSubstr(message));
  };
  refused("unit_distances", "distances", "manifest.json: unit_distances and unit_updates do not have the 5 units of the model");
  refused("\"unit_updates\": [", "\"unit_updates\": [9, ", "do not have the 5 units of the model");
  refused("\"unit_updates\": [\n  3", "\"unit_updates\": [\n  4", "unit_distances or unit_updates of embed");
  refused("\"trained\": [", "\"trained\": [\n  \"layers.9\",", "the units that were trained are not those of slimfit");
  ASSERT_TRUE(write_text_file(path, whole).ok());
  EXPECT_TRUE(run_training(c, 2, data()).status.ok());
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
  EXPECT_THAT(problem({.type = Freeze::Policy::slimfit, .states = Freeze::States::drop}),
              HasSubstr("optimizer.freeze.states: slimfit keeps them"));
  EXPECT_THAT(problem({.type = Freeze::Policy::slimfit, .freezing_rate = 0.33}),
              HasSubstr("optimizer.freeze.freezing_rate: 0.33 of 3 blocks is not one"));
  EXPECT_THAT(problem({.type = Freeze::Policy::lisa, .freezing_rate = 0.5}),
              HasSubstr("optimizer.freeze.freezing_rate: only slimfit has it"));
  EXPECT_THAT(problem({.type = Freeze::Policy::lisa}, Config::Optimizer::Type::frugal),
              HasSubstr("optimizer.freeze.type: frugal chooses states or projections for all units at once"));
}

}  // namespace
}  // namespace strata
