// Runs of FRUGAL whose whole matrices take turns: what every step did to every matrix, read from the checkpoints around it,
// against the formulas; and that states find their matrices again on other ranks and homes. Mutations that must fail: states
// that are not zero when a turn begins; bias corrections that count all steps; parts of a fused weight that take turns as one;
// a count that is cut off; states that a checkpoint gives to the choice before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/trainer/placement.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr double kLr = 1e-3, kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

Config blocks_config(const Placement& placement, const std::string& folder) {
  Config c = config_of(placement, folder, DType::f32);
  c.training.steps = 5;
  c.training.global_batch_size = 2;
  c.scheduler.type = ScheduleKind::constant;
  c.scheduler.warmup_steps = 0;
  c.optimizer = {.type = Config::Optimizer::Type::frugal,
                 .lr = kLr,
                 .beta1 = kBeta1,
                 .beta2 = kBeta2,
                 .eps = kEps,
                 .coord_choice = Config::Optimizer::Choice::blocks,
                 .density = 0.27,
                 .update_gap = 2,
                 .weight_decay = 0.0};
  return c;
}

// Rows [first, first + count) of a weight.
struct Rows {
  std::int64_t first, count;
};
// Three layers of q, k, v (40, 20, 20 rows), out (40), gate, up (100, 100) and down (40): 21 matrices, of which 0.27 rounds
// to 6; from the last one down.
const std::map<std::string, Rows> kTurns[] = {
    {{"layers.2.attn.qkv.weight", {40, 40}},  // k, v
     {"layers.2.attn.out.weight", {0, 40}},
     {"layers.2.mlp.gate_up.weight", {0, 200}},
     {"layers.2.mlp.down.weight", {0, 40}}},
    {{"layers.2.attn.qkv.weight", {0, 40}},
     {"layers.1.attn.qkv.weight", {60, 20}},
     {"layers.1.attn.out.weight", {0, 40}},
     {"layers.1.mlp.gate_up.weight", {0, 200}},
     {"layers.1.mlp.down.weight", {0, 40}}},
    {{"layers.1.attn.qkv.weight", {0, 60}},
     {"layers.0.attn.out.weight", {0, 40}},
     {"layers.0.mlp.gate_up.weight", {0, 200}},
     {"layers.0.mlp.down.weight", {0, 40}}},
};

std::vector<float> read(const CheckpointReader& reader, const std::string& name, const std::string& state, std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  EXPECT_TRUE(reader.read(name, state, 0, values).ok()) << name << " " << state;
  return values;
}

TEST(FrugalBlocksRuns, MatricesHaveStatesInTheirTurnAndNoneElse) {
  const TemporaryFolder folder;
  Config c = blocks_config({3, Tier::cpu, 4096, false}, folder.path());
  c.checkpoint.interval = 1;
  c.checkpoint.keep_last = 0;
  ASSERT_TRUE(run_training(c, 2, data()).status.ok());
  std::map<std::string, std::vector<float>> before;
  for (int step = 1; step <= 5; ++step) {
    SCOPED_TRACE(step);
    const auto& turn = kTurns[(step - 1) / 2];
    const int local = (step - 1) % 2 + 1;
    const auto reader = CheckpointReader::open(folder.path() + "/checkpoints/step_" + std::to_string(step));
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    std::size_t seen = 0;
    for (const CheckpointParam& param : reader->manifest().params) {
      const std::vector<float> p = read(*reader, param.name, kParameterState, param.shape.numel());
      const std::vector<float> old = std::exchange(before[param.name], p);
      const bool is_matrix = param.name.find(".attn.") != std::string::npos || param.name.find(".mlp.") != std::string::npos;
      if (!is_matrix) {
        EXPECT_EQ(param.state_count(), param.shape.numel()) << param.name;
        continue;
      }
      const std::int64_t columns = param.shape[1];
      const auto found = turn.find(param.name);
      const Rows rows = found == turn.end() ? Rows{0, 0} : found->second;
      EXPECT_EQ(param.state_count(), rows.count * columns) << param.name;
      seen += found != turn.end() ? 1 : 0;
      const std::vector<float> m = read(*reader, param.name, "m", rows.count * columns);
      const std::vector<float> v = read(*reader, param.name, "v", rows.count * columns);
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < param.shape.numel() && !old.empty(); ++i) {
        const auto at = static_cast<std::size_t>(i);
        const std::int64_t state = i - rows.first * columns;
        const double moved = static_cast<double>(old[at]) - static_cast<double>(p[at]);
        if (state < 0 || state >= rows.count * columns) {  // a step along the sign
          wrong += moved == 0.0 || std::abs(std::abs(moved) - kLr) < 2e-7 ? 0 : 1;
          continue;
        }
        const double of_m = m[static_cast<std::size_t>(state)], of_v = v[static_cast<std::size_t>(state)];
        const double wanted =
            kLr * of_m / (1 - std::pow(kBeta1, local)) / (std::sqrt(of_v / (1 - std::pow(kBeta2, local))) + kEps);
        wrong += std::abs(moved - wanted) < 2e-7 ? 0 : 1;
        // What the first gradient alone leaves.
        const double g = of_m / (1 - kBeta1);
        if (local == 1) wrong += std::abs(of_v - (1 - kBeta2) * g * g) <= 1e-5 * of_v + 1e-30 ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0) << param.name;
    }
    EXPECT_EQ(seen, turn.size());
  }
}

TEST(FrugalBlocksRuns, GoOnElsewhereInTheMiddleOfATurn) {
  const TemporaryFolder whole;
  const RunResult straight = run_training(blocks_config({1, Tier::cpu, 16384, false}, whole.path()), 1, data());
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  for (const int after : {2, 3}) {
    const TemporaryFolder folder;
    ASSERT_TRUE(run_training(blocks_config({3, Tier::cpu, 4096, false}, folder.path()), 2, data(), nullptr, nullptr, after)
                    .status.ok());
    const RunResult resumed = run_training(blocks_config({0, Tier::nvme, 8192, false}, folder.path()), 1, data());
    ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
    EXPECT_EQ(resumed.digest, straight.digest) << "after " << after;
  }
}

TEST(FrugalBlocksRuns, StatesOfAnotherOrderAreRefused) {
  const TemporaryFolder folder;
  Config c = blocks_config({3, Tier::cpu, 4096, false}, folder.path());
  ASSERT_TRUE(run_training(c, 1, data(), nullptr, nullptr, 3).status.ok());
  c.optimizer.block_order = Config::Optimizer::BlockOrder::ascending;
  const Status status = run_training(c, 1, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("other settings of frugal (tensors descending density 0.27 every 2 steps"));
}

TEST(FrugalBlocksRuns, PairsOfAnOddNumberAreRefused) {
  const TemporaryFolder folder;
  Config c = blocks_config({3, Tier::cpu, 4096, false}, folder.path());
  c.optimizer.block_order = Config::Optimizer::BlockOrder::mirror;
  c.optimizer.density = 0.25;
  const Status status = run_training(c, 2, data()).status;
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_THAT(status.message(), HasSubstr("21 tensors is 5"));
  c.optimizer.density = 0.27;
  EXPECT_TRUE(run_training(c, 2, data()).status.ok());
}

}  // namespace
}  // namespace strata
