// Promise 1 on a GPU: which tier the optimizer state lives in, which processor updates it, the ZeRO stage and the record size
// change no bit there either; and the loss is the host's within what another order of sums costs. Mutations that must fail:
// drop a wait between the copy of a record's parameters and the unit's next use; update with gradients of the step before;
// round the GPU's parameters another way than the CPU's.
#include <gtest/gtest.h>

#include "tests/machines/machines.h"
#include "tests/machines/tolerances.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

// Short, for the emulator's sake.
Config short_config(const Placement& placement, const std::string& folder, DType compute) {
  Config c = config_of(placement, folder, compute);
  c.training.steps = 3;
  c.training.global_batch_size = 4;
  c.scheduler.warmup_steps = 1;
  return c;
}

// Under a sanitizer what has most streams and most copies.
const std::vector<Placement> kFewPlacements = {{3, Tier::nvme, 4096, false, 0.5}, {0, Tier::gpu, 16384, false}};
const std::vector<Placement> kAllPlacements = {
    {0, Tier::gpu, 16384, false},
    {1, Tier::cpu, 4096, false},
    {2, Tier::nvme, 8192, true},
    {3, Tier::gpu, 4096, true},
    {3, Tier::cpu, 16384, false, 0.0, 0, Tier::cpu, Tier::cpu, DType::f32, 0.0, 1.0, Tier::nvme},
    {3, Tier::nvme, 4096, false, 0.5, 0, Tier::nvme, Tier::cpu, DType::f32, 0.0, 1.0, Tier::cpu},
    {2, Tier::cpu, 4096, false, 0.5},
    {3, Tier::nvme, 8192, false, 1.0}};
const std::vector<Placement>& kPlacements = testing::kSanitized ? kFewPlacements : kAllPlacements;

std::vector<std::tuple<int, DType>> worlds_and_precisions() {
  if (testing::kSanitized) return {{2, DType::bf16}};
  return {{1, DType::f32}, {1, DType::bf16}, {2, DType::f32}, {2, DType::bf16}};
}

class GpuEquivalence : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(GpuEquivalence, DigestIsOneStringForEveryPlacementAndTheLossIsTheHosts) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  const testing::GpuMachine& machine = testing::gpu_machines()[0];
  if (machine.gpus < world) GTEST_SKIP() << world << " ranks want as many GPUs, here are " << machine.gpus;
  TemporaryFolder host_folder;
  const RunResult host = run_training(short_config(kPlacements[1], host_folder.path(), compute), world, data);
  ASSERT_TRUE(host.status.ok()) << host.status.message();
  std::string reference;
  for (const Placement& placement : kPlacements) {
    SCOPED_TRACE(describe(placement));
    TemporaryFolder folder;
    const RunResult run = run_training(short_config(placement, folder.path(), compute), world, data, data, &machine);
    ASSERT_TRUE(run.status.ok()) << run.status.message();
    EXPECT_EQ(run.measured_gpu, run.planned_gpu) << "the plan is the run";
    EXPECT_EQ(run.measured_cpu, run.planned_cpu);
    ASSERT_EQ(run.losses.size(), host.losses.size());
    for (std::size_t i = 0; i < run.losses.size(); ++i)
      EXPECT_NEAR(run.losses[i], host.losses[i], testing::loss_tolerance(compute)) << "step " << i + 1;
    if (reference.empty()) reference = run.digest;
    EXPECT_EQ(run.digest, reference);
    ASSERT_FALSE(run.digest.empty());
  }
}

// A llama whose heads a vendor's attention takes.
Config library_config(const Placement& placement, const std::string& folder) {
  Config c = short_config(placement, folder, DType::bf16);
  c.model.head_dim = 16;
  return c;
}

TEST(GpuLibraryAttention, PlacementsAgreeAndThePlanIsTheRun) {
  if (const auto driver = testing::library_attention_driver(); !driver.ok())
    GTEST_SKIP() << "no cuDNN: " << driver.status().message();
  const testing::GpuMachine library = {"library", 1, [](int) { return testing::library_attention_driver().value(); }};
  const auto data = std::make_shared<FormulaSource>(61);
  TemporaryFolder host_folder;
  const RunResult host = run_training(library_config(kPlacements[1], host_folder.path()), 1, data);
  ASSERT_TRUE(host.status.ok()) << host.status.message();
  std::string reference;
  for (const Placement& placement : {kPlacements.front(), kPlacements.back()}) {
    SCOPED_TRACE(describe(placement));
    TemporaryFolder folder;
    const RunResult run = run_training(library_config(placement, folder.path()), 1, data, nullptr, &library);
    ASSERT_TRUE(run.status.ok()) << run.status.message();
    EXPECT_EQ(run.measured_gpu, run.planned_gpu) << "the plan is the run";
    for (std::size_t i = 0; i < run.losses.size(); ++i)
      EXPECT_NEAR(run.losses[i], host.losses[i], testing::loss_tolerance(DType::bf16)) << "step " << i + 1;
    if (reference.empty()) reference = run.digest;
    EXPECT_EQ(run.digest, reference);
    ASSERT_FALSE(run.digest.empty());
  }
}

TEST(GpuLibraryAttention, AShapeItRefusesEndsTheRunBeforeTheFirstStep) {
  if (const auto driver = testing::library_attention_driver(); !driver.ok())
    GTEST_SKIP() << "no cuDNN: " << driver.status().message();
  const testing::GpuMachine library = {"library", 1, [](int) { return testing::library_attention_driver().value(); }};
  TemporaryFolder folder;
  const RunResult run = run_training(short_config(kPlacements[0], folder.path(), DType::bf16), 1,
                                     std::make_shared<FormulaSource>(61), nullptr, &library);
  EXPECT_EQ(run.status.code(), Code::unsupported) << run.status.message();
  EXPECT_TRUE(run.losses.empty());
}

INSTANTIATE_TEST_SUITE_P(WorldsAndPrecisions, GpuEquivalence, ::testing::ValuesIn(worlds_and_precisions()),
                         [](const auto& test) {
                           return "world_" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace strata
