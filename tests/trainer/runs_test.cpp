// What a run promises besides its numbers, on every processor: it resumes to the bit, the host goes on from its checkpoints,
// validation sees the trained parameters, a value that is not finite stops it and is named, and a rank that fails tells the
// others why. The numbers: equivalence_test.cpp, gpu_equivalence_test.cpp. Mutations that must fail: load a checkpoint without
// sending 16-bit or f32 parameters up again; validate before the update's parameters have arrived; look for the bad value in
// memory that the copy has not reached; leave a dropped guess's state in place.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "tests/machines/machines.h"
#include "tests/machines/tolerances.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

using testing::Processor;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

std::string name_of(const Processor& processor) { return processor.name; }

struct Case {
  const char* name;
  Tier home;
  DType compute;
};

// Under a sanitizer what has most streams and most copies.
std::vector<Case> cases() {
  if (testing::kSanitized) return {{"nvme_bf16", Tier::nvme, DType::bf16}};
  return {{"gpu_f32", Tier::gpu, DType::f32}, {"cpu_f32", Tier::cpu, DType::f32}, {"nvme_bf16", Tier::nvme, DType::bf16}};
}

class RunsOn : public ::testing::TestWithParam<std::tuple<Processor, Case>> {
 protected:
  const testing::GpuMachine* gpu() const { return std::get<0>(GetParam()).gpu; }
  // Ranks with a processor each: two, where there are as many.
  int ranks() const { return gpu() == nullptr ? 2 : std::min(2, gpu()->gpus); }
  DType compute() const { return std::get<1>(GetParam()).compute; }
  // Twenty steps of twelve samples; on a GPU four of two, for the emulator's sake.
  Config config(const std::string& folder) const {
    Config c = config_of({3, std::get<1>(GetParam()).home, 4096, false}, folder, compute());
    if (gpu() == nullptr) return c;
    c.training.steps = 4;
    c.training.global_batch_size = 2;
    c.scheduler.warmup_steps = 1;
    return c;
  }
  RunResult run(const Config& c, int broken_off = 0) const {
    return run_training(c, ranks(), data(), nullptr, gpu(), broken_off);
  }
};

TEST_P(RunsOn, HalvesEqualTheWholeAndTheHostGoesOnFromTheFirst) {
  if (testing::kRacesOnly && gpu() != nullptr) GTEST_SKIP() << "GpuEquivalence has its threads";
  const TemporaryFolder whole, halves, on_host;
  Config c = config(whole.path());
  const RunResult straight = run(c);
  ASSERT_TRUE(straight.status.ok()) << straight.status.message();
  const auto half = static_cast<std::size_t>(c.training.steps) / 2;
  // The same run, broken off in the middle: the schedule must not know.
  c.run.folder = halves.path();
  const RunResult first = run(c, static_cast<int>(half));
  ASSERT_TRUE(first.status.ok()) << first.status.message();
  Config host = c;
  host.checkpoint.resume = halves.path() + "/checkpoints/step_" + std::to_string(half);
  host.run.folder = on_host.path();
  const RunResult resumed = run(c);
  ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
  EXPECT_EQ(resumed.losses.size(), half);
  EXPECT_EQ(resumed.digest, straight.digest);
  const RunResult there = run_training(host, 2, data());
  ASSERT_TRUE(there.status.ok()) << there.status.message();
  ASSERT_EQ(there.losses.size(), half);
  if (gpu() == nullptr) {
    EXPECT_EQ(there.digest, straight.digest);
  }
  for (std::size_t i = 0; i < half; ++i)
    EXPECT_NEAR(there.losses[i], straight.losses[i + half], testing::loss_tolerance(compute())) << i;
}

TEST_P(RunsOn, ValidationSeesWhatTheLastStepTrained) {
  if (testing::kRacesOnly && gpu() != nullptr) GTEST_SKIP() << "GpuEquivalence has its threads";
  const TemporaryFolder folder, host_folder;
  Config c = config(folder.path());
  c.training.steps = 3;
  c.training.eval_interval = 1;
  c.training.eval_iters = 1;
  const RunResult run = run_training(c, 1, data(), data(), gpu());
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  // The host's, with the states elsewhere.
  c.run.folder = host_folder.path();
  c.offload.optimizer.device = Tier::cpu;
  c.offload.optimizer.record_size = 16384;
  const RunResult host = run_training(c, 1, data(), data());
  ASSERT_TRUE(host.status.ok()) << host.status.message();
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_NEAR(run.validation_losses.at(i).value(), host.validation_losses.at(i).value(),
                gpu() == nullptr ? 0.0 : testing::loss_tolerance(compute()));
  EXPECT_GT(std::abs(*run.validation_losses[0] - *run.validation_losses[2]), 1e-3) << "nothing was trained in between";
}

TEST_P(RunsOn, ABadParameterIsNamed) {
  const TemporaryFolder folder;
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = data();
  if (gpu() != nullptr)
    extras.make_gpu = [machine = gpu()] { return Result<std::unique_ptr<GpuDriver>>(machine->make_driver()); };
  auto trainer = Trainer::create(config(folder.path()), *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  const Status filled = (*trainer)->engine().optimizer().fill([](const OptimizerRecord& record, RecordState state) {
    zero(record, state);
    if (record.unit == 2) state.p[39] = std::numeric_limits<float>::quiet_NaN();  // the last of layers.1's first norm
    return Status();
  });
  ASSERT_TRUE(filled.ok()) << filled.message();
  const auto step = (*trainer)->step();
  EXPECT_EQ(step.status().code(), Code::numerical);
  EXPECT_NE(step.status().message().find("parameter layers.1."), std::string::npos) << step.status().message();
}

INSTANTIATE_TEST_SUITE_P(Homes, RunsOn,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::ValuesIn(cases())),
                         [](const auto& test) {
                           return std::get<1>(test.param).name + std::string("_on_") + name_of(std::get<0>(test.param));
                         });

class FailuresOn : public ::testing::TestWithParam<Processor> {
 protected:
  bool has(int ranks) const { return GetParam().gpu == nullptr || GetParam().gpu->gpus >= ranks; }
  bool is_slow() const { return testing::kSanitized && GetParam().gpu != nullptr; }
  int two_or_one() const { return has(2) ? 2 : 1; }
  static Config exploding(const std::string& folder) {
    Config c = small_config(folder);
    c.optimizer.lr = 1e30;
    c.scheduler.type = ScheduleKind::constant;
    c.scheduler.warmup_steps = 0;
    c.training.global_batch_size = 4;
    return c;
  }
};

TEST_P(FailuresOn, AnExplodingRunNamesStepAndTensor) {
  if (is_slow()) GTEST_SKIP() << "under a sanitizer the host shows it";
  const TemporaryFolder folder;
  const RunResult run = run_training(exploding(folder.path()), two_or_one(), data(), nullptr, GetParam().gpu);
  ASSERT_EQ(run.status.code(), Code::numerical) << run.status.message();
  EXPECT_NE(run.status.message().find("step "), std::string::npos) << run.status.message();
  EXPECT_NE(run.status.message().find("first offending tensor: "), std::string::npos) << run.status.message();
  EXPECT_EQ(run.status.message().find("no single tensor"), std::string::npos) << run.status.message();
}

TEST_P(FailuresOn, AnUpdateThatBeganBeforeTheNormIsTakenBack) {
  if (is_slow()) GTEST_SKIP() << "under a sanitizer the host shows it";
  const auto message = [&](double speculation) {
    const TemporaryFolder folder;
    Config c = exploding(folder.path());
    c.precision.compute = DType::bf16;
    c.offload.optimizer.speculation = speculation;
    c.offload.optimizer.speculate = Config::Offload::Optimizer::When::always;
    return run_training(c, two_or_one(), data(), nullptr, GetParam().gpu).status.message();
  };
  const std::string waits = message(0.0);
  EXPECT_NE(waits.find("first offending tensor: "), std::string::npos) << waits;
  EXPECT_EQ(message(1.0), waits);
}

// A damaged sample, met by the one rank that draws it.
class DamagedSource final : public DataSource {
 public:
  explicit DamagedSource(std::uint64_t damaged) : damaged_(damaged) {}
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    if (k == damaged_) return {Code::corrupt, "shard.bin: token 99 at 1234"};
    return formula_.sample(k, out);
  }
  std::uint64_t samples_per_epoch() const override { return formula_.samples_per_epoch(); }
  std::int64_t vocab_size() const override { return formula_.vocab_size(); }

 private:
  std::uint64_t damaged_;
  FormulaSource formula_{61};
};

TEST_P(FailuresOn, ARankThatFailsAloneTellsTheOthersWhy) {
  if (!has(3)) GTEST_SKIP() << "three ranks want three GPUs";
  const TemporaryFolder folder;
  for (const std::int64_t stage : {0, 3}) {
    Config c = small_config(folder.path() + "/stage" + std::to_string(stage));
    c.zero.stage = stage;
    c.training.global_batch_size = 3;
    const RunResult run = run_training(c, 3, std::make_shared<DamagedSource>(4), nullptr, GetParam().gpu);  // step 2, rank 1
    EXPECT_EQ(run.ranks[1].code(), Code::corrupt);
    for (const int other : {0, 2}) {
      const Status& status = run.ranks[static_cast<std::size_t>(other)];
      EXPECT_EQ(status.code(), Code::peer_lost) << status.message();
      EXPECT_NE(status.message().find("shard.bin: token 99 at 1234"), std::string::npos) << status.message();
      EXPECT_FALSE(status.is_on_every_rank());
    }
  }
}

// Reads the samples of one rank slowly from the second step on.
class SlowSource final : public DataSource {
 public:
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    if (k == 3) std::this_thread::sleep_for(std::chrono::seconds(4));
    return formula_.sample(k, out);
  }
  std::uint64_t samples_per_epoch() const override { return formula_.samples_per_epoch(); }
  std::int64_t vocab_size() const override { return formula_.vocab_size(); }

 private:
  FormulaSource formula_{61};
};

TEST_P(FailuresOn, ASilentRankIsNamedAfterParallelTimeout) {
  if (GetParam().gpu == nullptr) GTEST_SKIP() << "who connects the host's ranks gives them their timeout";
  if (!has(2)) GTEST_SKIP() << "two ranks want two GPUs";
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.global_batch_size = 2;
  c.parallel.timeout = 0.5;
  const RunResult run = run_training(c, 2, std::make_shared<SlowSource>(), nullptr, GetParam().gpu);
  EXPECT_EQ(run.ranks[0].code(), Code::peer_lost) << run.ranks[0].message();
  EXPECT_NE(run.ranks[0].message().find("rank 1"), std::string::npos) << run.ranks[0].message();
  EXPECT_NE(run.ranks[0].message().find("within 0.5 s"), std::string::npos) << run.ranks[0].message();
}

INSTANTIATE_TEST_SUITE_P(Processors, FailuresOn, ::testing::ValuesIn(testing::processors()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace strata
