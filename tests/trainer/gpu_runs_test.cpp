// What a run promises besides its numbers, on a GPU: it resumes to the bit, its checkpoints load on the host, validation sees
// the trained parameters, and a value that is not finite is named. The numbers: gpu_equivalence_test.cpp. Mutations that must
// fail: load a checkpoint without sending 16-bit or f32 parameters up again; validate before the update's parameters have
// arrived; look for the bad value in memory that the copy has not reached.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

const testing::GpuMachine* gpu() { return &testing::gpu_machines()[0]; }
// Ranks with a GPU each: two, where there are as many.
int most_ranks() { return std::min(2, gpu()->gpus); }
std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

Config short_config(const std::string& folder, Tier home, DType compute) {
  Config c = config_of({3, home, 4096, false}, folder, compute);
  c.training.steps = 4;
  c.training.global_batch_size = 2;
  c.scheduler.warmup_steps = 1;
  c.scheduler.type = ScheduleKind::constant;
  return c;
}

struct Case {
  const char* name;
  Tier home;
  DType compute;
};

class GpuRuns : public ::testing::TestWithParam<Case> {};

TEST_P(GpuRuns, TwoAndTwoStepsEqualFourAndTheHostGoesOnFromThem) {
  const TemporaryFolder whole, halves;
  Config c = short_config(whole.path(), GetParam().home, GetParam().compute);
  const RunResult straight = run_training(c, most_ranks(), data(), nullptr, gpu());
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  c.run.folder = halves.path();
  c.training.steps = 2;
  ASSERT_TRUE(run_training(c, most_ranks(), data(), nullptr, gpu()).status.ok());
  c.training.steps = 4;
  Config on_host = c;
  on_host.checkpoint.resume = halves.path() + "/checkpoints/step_2";
  on_host.run.folder = halves.path() + "/host";
  const RunResult resumed = run_training(c, most_ranks(), data(), nullptr, gpu());
  ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
  EXPECT_EQ(resumed.losses.size(), 2u);
  EXPECT_EQ(resumed.digest, straight.digest);
  const RunResult host = run_training(on_host, 2, data());
  ASSERT_TRUE(host.status.ok()) << host.status.message();
  ASSERT_EQ(host.losses.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_NEAR(host.losses[i], straight.losses[i + 2], GetParam().compute == DType::f32 ? 2e-5 : 2e-2) << i;
}

TEST_P(GpuRuns, ValidationSeesWhatTheLastStepTrained) {
  const TemporaryFolder gpu_folder, host_folder;
  Config c = short_config(gpu_folder.path(), GetParam().home, GetParam().compute);
  c.training.steps = 2;
  c.training.eval_interval = 1;
  c.training.eval_iters = 1;
  const RunResult run = run_training(c, 1, data(), data(), gpu());
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  c.run.folder = host_folder.path();
  const RunResult host = run_training(c, 1, data(), data());
  ASSERT_TRUE(host.status.ok()) << host.status.message();
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_NEAR(run.validation_losses.at(i).value(), host.validation_losses.at(i).value(),
                GetParam().compute == DType::f32 ? 2e-5 : 2e-2);
  EXPECT_GT(std::abs(*run.validation_losses[0] - *run.validation_losses[1]), 1e-3) << "nothing was trained in between";
}

TEST_P(GpuRuns, ABadParameterIsNamed) {
  const TemporaryFolder folder;
  const Config c = short_config(folder.path(), GetParam().home, GetParam().compute);
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = data();
  extras.make_gpu = [] { return Result<std::unique_ptr<GpuDriver>>(gpu()->make_driver()); };
  auto trainer = Trainer::create(c, *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  const Status filled = (*trainer)->engine().optimizer().fill([](const OptimizerRecord& record, RecordState state) {
    for (float* values : {state.p, state.m, state.v}) std::fill(values, values + record.range.count, 0.0f);
    if (record.unit == 2) state.p[39] = std::numeric_limits<float>::quiet_NaN();
    return Status();
  });
  ASSERT_TRUE(filled.ok()) << filled.message();
  const auto step = (*trainer)->step();
  EXPECT_EQ(step.status().code(), Code::numerical);
  EXPECT_NE(step.status().message().find("parameter layers.1."), std::string::npos) << step.status().message();
}

// Under a sanitizer, where the emulator takes ten times as long, what has most streams and most copies.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
const std::vector<Case> kCases = {{"nvme_bf16", Tier::nvme, DType::bf16}};
#else
const std::vector<Case> kCases = {{"gpu_f32", Tier::gpu, DType::f32}, {"nvme_bf16", Tier::nvme, DType::bf16}};
#endif
INSTANTIATE_TEST_SUITE_P(Homes, GpuRuns, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace strata
