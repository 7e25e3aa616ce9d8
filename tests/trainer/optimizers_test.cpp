// Whole runs with every optimizer, one from outside the library among them: where states live, who updates them and how they
// are cut changes no bit, a run resumes to the bit, and what is planned is measured. Mutations that must fail: a state of the
// record written to the wrong array; a group's settings taken from its neighbour; the states of a checkpoint read in another
// order; a plan that counts two states for every optimizer; states of one choice taken for those of the next; a choice that is
// made where a record begins; words that the GPU gets a step late; a checkpoint that forgets the limiter's norm or the
// projections; states of a new choice that an optimizer of one's own is not told are zero.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <set>

#include "optim/frugal.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using testing::Processor;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

// An optimizer that the library does not have, for CPUs only.
class RmsProp final : public Optimizer {
 public:
  const char* name() const override { return "rmsprop"; }
  std::vector<std::string> states() const override { return {"mean_square"}; }
  void update(const UpdateSlice& s, const UpdateStep& step, const ParamGroup& group) const override {
    const auto lr = static_cast<float>(step.lr * group.lr_scale), scale = static_cast<float>(step.grad_scale);
    float* const p = s.new_p != nullptr ? s.new_p : s.p;
    float* const v = s.new_p != nullptr ? s.new_states[0] : s.states[0];
    for (std::int64_t i = 0; i < s.n; ++i) {
      const float g = (s.g16 != nullptr ? to_float(s.g16[i]) : s.g[i]) * scale;
      v[i] = std::fma(0.01f, g * g, 0.99f * s.states[0][i]);
      p[i] = std::fma(-lr, g / (std::sqrt(v[i]) + 1e-6f), s.p[i]);
      if (s.p16 != nullptr) s.p16[i] = to_bf16(p[i]);
    }
  }
};

struct Method {
  const char* name;
  std::size_t states;
  Config::Optimizer config;
  std::shared_ptr<const Optimizer> own = nullptr;
  bool has_rows = false;  // Optimizer::rows()
  StateFormat format = kF32States;
};

std::vector<Method> methods() {
  using Type = Config::Optimizer::Type;
  using Stateful = Config::Optimizer::Stateful;
  using Choice = Config::Optimizer::Choice;
  using BlockOrder = Config::Optimizer::BlockOrder;
  using Inactive = Config::Optimizer::Inactive;
  using Scaling = Config::Optimizer::Scaling;
  using Seeds = Config::Optimizer::Seeds;
  using StateDtype = Config::Optimizer::StateDtype;
  std::vector<Method> all = {
      {"Lion", 1, {.type = Type::lion, .lr = 1e-3}},
      {"Sgd", 0, {.type = Type::sgd, .lr = 0.3, .weight_decay = 1e-3}},
      {"Nesterov", 1, {.type = Type::sgd, .lr = 0.1, .momentum = 0.9, .nesterov = true, .weight_decay = 1e-3}},
      {"RmsProp", 1, {.lr = 3e-3}, std::make_shared<RmsProp>()},
      {"FrugalColumns", 2, {.type = Type::frugal, .lr = 3e-3, .update_gap = 3}},
      {"FrugalRowsLion",
       1,
       {.type = Type::frugal,
        .lr = 1e-3,
        .stateful = Stateful::lion,
        .coord_choice = Choice::rows,
        .density = 0.4,
        .update_gap = 2,
        .inactive_update_rule = Inactive::sgd}},
      {"FrugalEntriesSgd",
       1,
       {.type = Type::frugal,
        .lr = 2e-3,
        .stateful = Stateful::sgd,
        .coord_choice = Choice::entries,
        .density = 0.25,
        .update_gap = 3,
        .proj_params_lr_scale = 0.5}},
      {"FrugalNone", 2, {.type = Type::frugal, .lr = 3e-3, .density = 0.0, .update_gap = 1}},
      {"Apollo", 2, {.type = Type::apollo, .lr = 1e-2, .rank = 8, .update_proj_gap = 3}, nullptr, true},
      {"ApolloMini",
       2,
       {.type = Type::apollo,
        .lr = 1e-2,
        .scale_type = Scaling::tensor,
        .update_proj_gap = 2,
        .scale_front = true,
        .proj_seeds = Seeds::authors},
       nullptr,
       true},
      {"Galore", 2, {.type = Type::galore, .lr = 1e-2, .rank = 8, .update_proj_gap = 3}, nullptr, true},
      {"FrugalRandomLion",
       1,
       {.type = Type::frugal,
        .lr = 1e-3,
        .stateful = Stateful::lion,
        .density = 0.2,
        .update_gap = 3,
        .proj_type = Config::Optimizer::Space::random},
       nullptr,
       true},
      {"ApolloSvd",
       2,
       {.type = Type::apollo, .lr = 1e-2, .proj = Config::Optimizer::Projection::svd, .rank = 8, .update_proj_gap = 3},
       nullptr,
       true},
      {"AdamWBf16", 2, {.lr = 3e-3, .state_dtype = StateDtype::bf16}, nullptr, false, kBf16States},
      {"AdamW8bit", 2, {.lr = 3e-3, .state_dtype = StateDtype::eight_bit}, nullptr, false, kEightBitStates},
      {"LionBf16", 1, {.type = Type::lion, .lr = 1e-3, .state_dtype = StateDtype::bf16}, nullptr, false, kBf16States},
      {"NesterovBf16",
       1,
       {.type = Type::sgd, .lr = 0.1, .momentum = 0.9, .nesterov = true, .state_dtype = StateDtype::bf16, .weight_decay = 1e-3},
       nullptr,
       false,
       kBf16States},
      {"FrugalBlocks", 2, {.type = Type::frugal, .lr = 3e-3, .coord_choice = Choice::blocks, .density = 0.25, .update_gap = 2}},
      {"FrugalBlocksLion",
       1,
       {.type = Type::frugal,
        .lr = 1e-3,
        .stateful = Stateful::lion,
        .coord_choice = Choice::blocks,
        .block_order = BlockOrder::random,
        .density = 0.5,
        .update_gap = 3}},
  };
  if (testing::kSanitized) all = {all[4], all[8], all[10], all[13], all[17]};
  for (Method& method : all) method.config.groups = {"*attn* lr_scale=0.5", "*mlp* weight_decay=0.02"};
  return all;
}

Config config_for(const Method& method, const Placement& placement, const std::string& folder, DType compute) {
  Config c = config_of(placement, folder, compute);
  c.optimizer = method.config;
  if (method.has_rows) {  // matrices of several cuts
    c.model.hidden_size = 64;
    c.model.head_dim = 16;
    c.model.ffn_size = 192;
  }
  return c;
}

class OptimizersOn : public ::testing::TestWithParam<std::tuple<Processor, Method>> {
 protected:
  static const testing::GpuMachine* gpu() { return std::get<0>(GetParam()).gpu; }
  static const Method& method() { return std::get<1>(GetParam()); }
  static bool updates_on_gpu() { return method().own == nullptr; }
  static int ranks() { return gpu() == nullptr ? 2 : 1; }
  static bool gpu_shows_no_more_races() { return testing::kRacesOnly && gpu() != nullptr && !method().has_rows; }
  static Config config(const Placement& placement, const std::string& folder, DType compute) {
    Config c = config_for(method(), placement, folder, compute);
    if (gpu() == nullptr) return c;
    c.training.steps = 4;  // for the emulator's sake
    c.training.global_batch_size = 2;
    c.scheduler.warmup_steps = 1;
    return c;
  }
  static RunResult run(const Config& c, int broken_off = 0) {
    return run_training(c, ranks(), data(), nullptr, gpu(), broken_off, method().own);
  }
};

std::vector<Placement> placements(bool gpu, bool updates_on_gpu) {
  Placement speculating{2, Tier::cpu, 4096, false}, on_every_rank{0, Tier::nvme, 16384, false};
  speculating.speculation = on_every_rank.speculation = 1.0;
  speculating.delayed_share = 0.3;
  on_every_rank.grads = Tier::cpu;
  std::vector<Placement> all = {{1, Tier::cpu, 16384, false}, {3, Tier::nvme, 4096, false}, speculating, on_every_rank};
  if (gpu && !updates_on_gpu) return all;
  all.push_back({3, Tier::gpu, 4096, false});
  Placement shared{3, Tier::nvme, 4096, false};
  shared.gpu_fraction = 0.5;
  shared.params = Tier::cpu;
  if (gpu) all.push_back(shared);
  if (testing::kSanitized) all.erase(all.begin(), all.end() - 3);
  return all;
}

TEST_P(OptimizersOn, PlacementChangesNoBitAndThePlanIsTheRun) {
  if (gpu_shows_no_more_races()) GTEST_SKIP() << "GpuEquivalence has its threads";
  for (const DType compute : {DType::f32, DType::bf16}) {
    if (testing::kSanitized && compute == DType::f32) continue;
    RunResult reference;
    for (const Placement& placement : placements(gpu() != nullptr, updates_on_gpu())) {
      SCOPED_TRACE(describe(placement) + " " + to_string(compute));
      const TemporaryFolder folder;
      const RunResult result = run(config(placement, folder.path(), compute));
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      ASSERT_FALSE(result.digest.empty());
      if (reference.digest.empty()) reference = result;
      EXPECT_EQ(result.digest, reference.digest);
      EXPECT_EQ(result.losses, reference.losses);
      EXPECT_EQ(result.measured_gpu, result.planned_gpu);
      EXPECT_EQ(result.measured_cpu, result.planned_cpu);
      const UpdateShape& shape = result.plan->update.schedule.shape;
      std::int64_t elements = 0, with_states = 0, of_rows = 0;
      for (std::size_t r = 0; r < shape.records.size(); ++r) {
        const OptimizerRecord& record = shape.records[r];
        elements += record.range.count;
        with_states += record.states;
        of_rows += record.row_states;
        const double master = has_master(shape, r) ? 4.0 * static_cast<double>(record.range.count) : 0.0;
        EXPECT_EQ(state_bytes(shape, r),
                  static_cast<double>(method().states) * static_cast<double>(method().format.bytes(record.states)) + master);
      }
      EXPECT_EQ(of_rows > 0, method().has_rows);
      if (method().has_rows || method().config.type == Config::Optimizer::Type::frugal) {
        EXPECT_LT(with_states, elements * 3 / 4);
      } else if (method().format.block > 1) {  // the last parameter's last block
        EXPECT_GE(with_states, elements);
        EXPECT_LT(with_states, elements + method().format.block * std::ssize(result.plan->update.schedule.shape.records));
      } else {
        EXPECT_EQ(with_states, elements);
      }
    }
    if (gpu() == nullptr) {
      EXPECT_LT(reference.losses.back(), reference.losses.front() - 0.2) << "the model must learn";
    }
  }
}

TEST_P(OptimizersOn, ARunThatResumesIsTheRunThatDidNotStop) {
  if (gpu_shows_no_more_races()) GTEST_SKIP() << "GpuEquivalence has its threads";
  const Placement placement{3, Tier::nvme, 4096, false};
  const TemporaryFolder whole, halves;
  const RunResult straight = run(config(placement, whole.path(), DType::bf16));
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  ASSERT_TRUE(run(config(placement, halves.path(), DType::bf16), 2).status.ok());
  const RunResult resumed = run(config(placement, halves.path(), DType::bf16));
  ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
  EXPECT_EQ(resumed.losses.size() + 2, straight.losses.size());
  EXPECT_EQ(resumed.digest, straight.digest);
}

INSTANTIATE_TEST_SUITE_P(Processors, OptimizersOn,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::ValuesIn(methods())),
                         [](const auto& tested) {
                           return std::get<0>(tested.param).name + "_" + std::get<1>(tested.param).name;
                         });

class OptimizerWorlds : public ::testing::TestWithParam<Method> {};

// A checkpoint is taken in the step before projections, columns or blocks change, and another in the step that changes them:
// the methods do so every second or third step, thus in step 7.
TEST_P(OptimizerWorlds, ARunThatGoesOnWithThreeRanksOfFourAndThenTwoIsTheRunOfOne) {
  struct Stretch {
    int world, broken_off;
    Placement placement;
  };
  const std::vector<Stretch> stretches = {
      {4, 6, {3, Tier::nvme, 4096, false}}, {3, 1, {1, Tier::cpu, 16384, false}}, {2, 0, {2, Tier::cpu, 20480, false}}};
  const auto train = [&](Stretch stretch, const std::string& folder) {
    Config c = config_for(GetParam(), stretch.placement, folder, DType::bf16);
    c.training.steps = 10;
    return run_training(c, stretch.world, data(), nullptr, nullptr, stretch.broken_off, GetParam().own);
  };
  const TemporaryFolder whole, changing;
  const RunResult straight = train({1, 0, {0, Tier::cpu, 8192, false}}, whole.path());
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  RunResult last;
  for (const Stretch& stretch : stretches) {
    last = train(stretch, changing.path());
    ASSERT_TRUE(last.status.ok()) << stretch.world << " ranks: " << last.status.message();
  }
  EXPECT_EQ(last.losses.size(), 3u);
  EXPECT_EQ(last.digest, straight.digest);
}

INSTANTIATE_TEST_SUITE_P(Methods, OptimizerWorlds, ::testing::ValuesIn(methods()),
                         [](const auto& tested) { return std::string(tested.param.name); });

// FRUGAL as an optimizer of one's own, which counts how often it is told rightly and wrongly whether its states are zero.
class WatchedFrugal final : public Optimizer {
 public:
  explicit WatchedFrugal(FrugalChoice choice)
      : frugal_({.choice = choice, .density = 0.3, .update_gap = 2, .stateful = LionConfig()}, 3) {}
  const char* name() const override { return "watched"; }
  std::vector<std::string> states() const override { return frugal_.states(); }
  std::int64_t choice(std::int64_t step) const override { return frugal_.choice(step); }
  StatefulSet stateful(const ParamShape& p, const ParamGroup& group, std::int64_t choice) const override {
    return frugal_.stateful(p, group, choice);
  }
  std::int64_t most_states(const ParamShape& p, const ParamGroup& group, std::int64_t first, std::int64_t n) const override {
    return frugal_.most_states(p, group, first, n);
  }
  bool takes_turns(const ParamShape& p, const ParamGroup& group) const override { return frugal_.takes_turns(p, group); }
  std::int64_t most_at_once(std::span<const std::int64_t> elements) const override { return frugal_.most_at_once(elements); }
  std::string choice_rule() const override { return frugal_.choice_rule(); }
  void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const override {
    if (group.projected) ++(slice.states_are_zero == (step.number % 2 == 1) ? right : wrong);
    frugal_.update(slice, step, group);
  }
  mutable std::atomic<int> right = 0, wrong = 0;

 private:
  Frugal frugal_;
};

// FRUGAL knows by itself when its states begin at zero; who does not is told, also where a run resumes within a choice or
// between two.
TEST(OptimizerOfOnesOwn, IsToldWhenTheStatesOfANewChoiceAreZero) {
  if (testing::kSanitized) GTEST_SKIP() << "no threads but those above";
  for (const FrugalChoice choice : {FrugalChoice::columns, FrugalChoice::tensors}) {
    for (const Tier home : {Tier::cpu, Tier::nvme}) {
      SCOPED_TRACE(::testing::Message() << static_cast<int>(choice) << " in " << to_string(home));
      const TemporaryFolder folder;
      Config c = config_of({2, home, 4096, false}, folder.path(), DType::f32);
      c.training.steps = 7;
      const auto method = std::make_shared<WatchedFrugal>(choice);
      for (const int broken_off : {3, 1, 0}) {
        const RunResult run = run_training(c, 1, data(), nullptr, nullptr, broken_off, method);
        ASSERT_TRUE(run.status.ok()) << run.status.message();
        EXPECT_EQ(method->wrong, 0) << "broken off after " << broken_off;
      }
      EXPECT_GT(method->right, 7);
    }
  }
}

// Parameter `name` as the newest checkpoint of a run has it.
std::vector<float> parameter(const Config& c, const std::string& name, std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  const Result<std::string> found = find_checkpoint(c.run.folder);
  EXPECT_TRUE(found.ok());
  const Result<CheckpointReader> reader = CheckpointReader::open(*found);
  EXPECT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_TRUE(reader->read(name, kParameterState, 0, values).ok());
  return values;
}

TEST(OptimizerGroups, HoldForTheParametersThatTheyName) {
  const auto trained = [](std::vector<std::string> groups, double weight_decay, const std::string& name) {
    const TemporaryFolder folder;
    Config c = small_config(folder.path());
    c.training.steps = 3;
    c.optimizer.groups = std::move(groups);
    c.optimizer.weight_decay = weight_decay;
    const RunResult run = run_training(c, 1, data());
    EXPECT_TRUE(run.status.ok()) << run.status.message();
    return parameter(c, name, 40);
  };
  const std::string norm = "layers.1.mlp_norm.weight";
  EXPECT_NE(trained({}, 0.1, norm), std::vector<float>(40, 1.0f));
  EXPECT_EQ(trained({norm + " lr_scale=0"}, 0.1, norm), std::vector<float>(40, 1.0f)) << "a rate of nothing freezes";
  EXPECT_NE(trained({norm + " lr_scale=0"}, 0.1, "layers.0.mlp_norm.weight"), std::vector<float>(40, 1.0f)) << "it alone";
  EXPECT_EQ(trained({norm + " weight_decay=0"}, 0.1, norm), trained({}, 0.1, norm)) << "norms do not decay";
  EXPECT_NE(trained({norm + " weight_decay=5"}, 0.1, norm), trained({}, 0.1, norm)) << "unless they are told to";
}

TEST(OptimizerGroups, APatternOfNoParameterIsAnError) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.optimizer.groups = {"layer.* lr_scale=2"};
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("optimizer.groups: \"layer.*\" is the first to match no parameter's name"));
}

TEST(OptimizerCheckpoints, StatesOfAnotherOptimizerAreRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 3;
  c.optimizer.type = Config::Optimizer::Type::lion;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  c.optimizer.type = Config::Optimizer::Type::adamw;
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("holds the states of lion (m), this run's optimizer is adamw (m, v)"));
}

TEST(OptimizerCheckpoints, StatesInAnotherFormatAreRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 3;
  c.optimizer.state_dtype = Config::Optimizer::StateDtype::bf16;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  c.optimizer.state_dtype = Config::Optimizer::StateDtype::fp32;
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("holds states in bf16, this run's are in fp32: set optimizer.state_dtype back"));
}

TEST(OptimizerCheckpoints, StatesOfOtherElementsAreRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 3;
  c.optimizer.type = Config::Optimizer::Type::frugal;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  c.optimizer.density = 0.5;
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(),
              HasSubstr("states that go with other settings of frugal (columns density 0.25 every 200 steps"));
}

TEST(OptimizerCheckpoints, MomentsOfOtherProjectionsAreRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 3;
  c.optimizer.type = Config::Optimizer::Type::apollo;
  c.optimizer.rank = 4;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  const auto refused = [](const Config& other) {
    const Status status = run_training(other, 1, data()).status;
    EXPECT_EQ(status.code(), Code::invalid_config);
    EXPECT_THAT(status.message(),
                HasSubstr("states that go with other settings of apollo (projections of rank 4 for 200 steps, seed"));
  };
  Config other = c;
  other.optimizer.rank = 8;
  refused(other);
  other = c;
  other.optimizer.update_proj_gap = 100;
  refused(other);
  other = c;
  other.optimizer.proj_seeds = Config::Optimizer::Seeds::authors;
  refused(other);
  EXPECT_TRUE(run_training(c, 1, data()).status.ok());
}

TEST(OptimizerCheckpoints, StatesOfAnotherPartAreRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 3;
  c.optimizer.type = Config::Optimizer::Type::frugal;
  c.optimizer.groups = {"*mlp* projected=false"};
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 5;
  c.optimizer.groups = {};
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("set optimizer.groups back (projected)"));
}

TEST(OptimizerGroups, SayWhatFrugalKeepsStatesOfAPartOf) {
  const auto states = [](std::vector<std::string> groups) {
    const TemporaryFolder folder;
    Config c = small_config(folder.path());
    c.training.steps = 3;
    c.optimizer.type = Config::Optimizer::Type::frugal;
    c.optimizer.groups = std::move(groups);
    const RunResult run = run_training(c, 1, data());
    EXPECT_TRUE(run.status.ok()) << run.status.message();
    std::int64_t n = 0;
    for (const OptimizerRecord& record : run.plan->update.schedule.shape.records) n += record.states;
    return n;
  };
  EXPECT_LT(states({"embed* projected=true"}), states({}));
  EXPECT_GT(states({"*mlp* projected=false"}), states({}));
}

TEST(OptimizerOffTheGpu, IsRefusedWhereTheGpuWouldUpdate) {
  const testing::GpuMachine& machine = testing::gpu_machines()[0];
  const auto problem = [&](std::optional<Tier> home, std::optional<double> gpu_fraction) {
    const TemporaryFolder folder;
    Config c = small_config(folder.path());
    c.scheduler.warmup_steps = 0;
    c.training.steps = 1;
    c.offload.optimizer.device = home;
    c.offload.optimizer.gpu_fraction = gpu_fraction;
    return run_training(c, 1, data(), nullptr, &machine, 0, std::make_shared<RmsProp>()).status.message();
  };
  EXPECT_THAT(problem(Tier::gpu, {}), HasSubstr("offload.optimizer.device: is none, but rmsprop has no update on GPUs"));
  EXPECT_THAT(problem({}, {}), HasSubstr("offload.optimizer.device: is auto, but rmsprop"));
  EXPECT_THAT(problem(Tier::cpu, 0.5), HasSubstr("remove gpu_fraction and stride"));
}

}  // namespace
}  // namespace strata
