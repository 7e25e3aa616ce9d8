// A plan chooses within memory.nvme: what could stay in memory, and what could leave it for the states. All for cuda, as the
// stored plans are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/transformer.h"
#include "tests/machines/machines.h"
#include "trainer/gpu_setup.h"
#include "trainer/model_setup.h"
#include "trainer/plan.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

// 7 M parameters, so 84 MB of states: more than the two tiers have room for. Of the gpu tier, 129 MiB are workspace.
constexpr const char* kConfig =
    "model: {type: llama, vocab_size: 512, hidden_size: 128, num_layers: 32, num_heads: 2, ffn_size: 384}\n"
    "training: {steps: 1, seq_length: 256, micro_batch_size: 1, recompute: auto}\n"
    "precision: {compute: bf16, gradients: bf16}\n"
    "offload: {optimizer: {device: auto, record_size: 131072}, param: {device: auto}, gradient: {device: auto},\n"
    "          activation: {device: auto}}\n"
    "memory: {gpu: 176MiB, cpu: 40MiB}\n"
    "device: {backend: cuda, threads: 2}\n";
// Of a machine whose GPU is worth using for updates.
constexpr const char* kRates =
    "device.rates={h2d: 10GB/s, d2h: 10GB/s, gpu_update: 20e9, cpu_update: 1e8, nvme_read: 8GB/s, nvme_write: 8GB/s, "
    "compute_unit: 0.2ms}";

// Homes that are not the plan's choice.
const std::vector<std::string> kActivationsStay = {"offload.activation.device=none", "training.recompute=full"};
const std::vector<std::string> kUnitsStay = {"offload.param.device=none", "offload.gradient.device=none"};
std::vector<std::string> with(std::vector<std::string> all, const std::vector<std::string>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

struct Planned {
  Plan plan;
  Budgets budgets;
  Status fits() const { return check_budgets(plan, budgets); }
};

Planned planned(const std::vector<std::string>& overrides, std::optional<std::size_t> nvme = {}) {
  const Config config = *resolve(*parse_config(kConfig, "t.yaml", overrides), WorldSize{1}, {.train = true});
  const std::unique_ptr<Model> model = std::move(make_model(model_config(config))).value();
  Budgets budgets = budgets_of(config, 0);
  budgets.host_memory.reset();
  budgets.nvme = nvme;
  return {*make_plan(*model, engine_options(config, Rank{0}), WorldSize{1}, Rank{0}, 2, planned_backend(config), budgets),
          budgets};
}

// What the run needs on NVMe when it may have as much as it likes.
std::size_t freely(const std::vector<std::string>& overrides) { return planned(overrides).plan.nvme.bytes(); }

class NvmeBudget : public ::testing::TestWithParam<std::vector<std::string>> {};

TEST_P(NvmeBudget, ThatIsEnoughChangesNothing) {
  const std::size_t enough = freely(GetParam());
  ASSERT_GT(enough, 0u);
  const Planned exactly = planned(GetParam(), enough);
  EXPECT_TRUE(exactly.fits().ok());
  EXPECT_EQ(plan_to_json(exactly.plan), plan_to_json(planned(GetParam()).plan));
}

// Down to what a plan for hardly any needs, every budget is kept.
TEST_P(NvmeBudget, IsKeptDownToWhatTheRunNeedsAtLeast) {
  if (testing::kSanitized) GTEST_SKIP() << "planning is one thread's work";
  const Planned refused = planned(GetParam(), 4096);
  EXPECT_FALSE(refused.fits().ok());
  const std::size_t least = refused.plan.nvme.bytes(), most = freely(GetParam());
  EXPECT_LT(least, most * 97 / 100);
  for (const std::size_t budget : {least, least + (most - least) / 2}) {
    const Planned tried = planned(GetParam(), budget);
    EXPECT_TRUE(tried.fits().ok()) << tried.fits().message();
    EXPECT_LE(tried.plan.nvme.bytes(), budget);
  }
}

INSTANTIATE_TEST_SUITE_P(WhatIsChosen, NvmeBudget,
                         ::testing::Values(std::vector<std::string>{}, kActivationsStay, with(kActivationsStay, {kRates}),
                                           with(kUnitsStay, {"training.recompute=none", "training.seq_length=512",
                                                             "memory.gpu=220MiB", "memory.cpu=24MiB"})));

TEST(NvmeBudgets, WhatLeavesMakesRoomForStates) {
  const Plan free = planned(kActivationsStay).plan;
  EXPECT_EQ(free.nvme.bytes(), free.nvme.states);
  const Planned tight = planned(kActivationsStay, free.nvme.bytes() * 9 / 10);
  ASSERT_TRUE(tight.fits().ok());
  EXPECT_GT(tight.plan.nvme.params + tight.plan.nvme.grads, 0u);
  EXPECT_LT(tight.plan.nvme.states, free.nvme.states);
}

TEST(NvmeBudgets, WindowsOfTheGpuMakeRoomForStates) {
  const std::vector<std::string> only_states = with(with(kActivationsStay, kUnitsStay), {kRates});
  const Plan free = planned(only_states).plan;
  ASSERT_GT(free.update.gpu_fraction, 0.0);
  const Planned tight = planned(only_states, free.nvme.bytes() - 1);
  EXPECT_TRUE(tight.fits().ok()) << tight.fits().message();
  EXPECT_EQ(tight.plan.update.gpu_fraction, 0.0);
}

TEST(NvmeBudgets, ThatCannotBeKeptAreRefusedWithTheKeysThatHelp) {
  const std::string all_chosen(planned(kActivationsStay, 1 << 20).fits().message());
  EXPECT_THAT(all_chosen, HasSubstr("memory.nvme: planned "));
  EXPECT_THAT(all_chosen, HasSubstr("(state, two slots a record, "));
  EXPECT_THAT(all_chosen, HasSubstr(", parameters "));
  EXPECT_THAT(all_chosen, HasSubstr("> budget 1.00 MiB: "));
  EXPECT_THAT(all_chosen, HasSubstr("; raise memory.cpu, use more ranks or raise memory.nvme"));
  const std::string on_nvme(planned({"offload.optimizer.device=nvme"}, 1 << 20).fits().message());
  EXPECT_THAT(on_nvme, HasSubstr("; set offload.optimizer.device: auto, use more ranks or raise memory.nvme"));
}

// A state whose parameters are on NVMe holds its master, so in f32 nothing is won; the plan stays what it was.
TEST(NvmeBudgets, LeaveAPlanAsItWasWhereNothingHelps) {
  const std::vector<std::string> f32 =
      with(kActivationsStay, {"precision.compute=fp32", "precision.gradients=fp32", "memory.gpu=200MiB"});
  const Plan free = planned(f32).plan;
  const Planned tight = planned(f32, free.nvme.bytes() / 2);
  EXPECT_FALSE(tight.fits().ok());
  EXPECT_EQ(plan_to_json(tight.plan), plan_to_json(free));
}

}  // namespace
}  // namespace strata
