// What a run goes on from: a checkpoint of one layout loads into any other, a signal saves one, what does not belong together
// is refused. (That resuming equals not stopping: runs_test.cpp.)
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>

#include "tests/trainer/fixture.h"
#include "trainer/checkpoint/atomic_dir.h"
#include "trainer/stop_signal.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

TEST(Resume, StageThreeOfTwoRanksGoesOnAsStageOneOfThree) {
  const TemporaryFolder reference_folder, folder;
  Config c = small_config(folder.path());
  c.zero.stage = 3;
  c.training.steps = 10;
  c.scheduler.type = ScheduleKind::constant;
  ASSERT_TRUE(run_training(c, 2, data()).status.ok());
  c.training.steps = 20;
  Config straight = c;
  straight.run.folder = reference_folder.path() + "/straight";
  const RunResult unbroken = run_training(straight, 2, data());
  c.zero.stage = 1;
  const RunResult resumed = run_training(c, 3, data());
  ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
  ASSERT_EQ(resumed.losses.size(), 10u);
  for (std::size_t i = 0; i < 10; ++i)
    EXPECT_NEAR(resumed.losses[i], unbroken.losses[i + 10], 1e-5 * std::abs(unbroken.losses[i + 10]));
}

TEST(Resume, StopSignalSavesAtTheNextStepBoundary) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  install_stop_signals();
  clear_stop_signal();
  ASSERT_EQ(raise(SIGUSR1), 0);
  const RunResult run = run_training(c, 2, data());
  clear_stop_signal();
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  EXPECT_EQ(run.losses.size(), 1u);
  EXPECT_TRUE(fs::exists(folder.path() + "/checkpoints/step_1/manifest.json"));
}

// Asks to stop while the data of a sample is read.
class StoppingSource final : public DataSource {
 public:
  explicit StoppingSource(std::uint64_t at) : at_(at) {}
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    if (k == at_) (void)raise(SIGTERM);
    return formula_.sample(k, out);
  }
  std::uint64_t samples_per_epoch() const override { return formula_.samples_per_epoch(); }
  std::int64_t vocab_size() const override { return formula_.vocab_size(); }

 private:
  std::uint64_t at_;
  FormulaSource formula_{61};
};

TEST(Resume, ASignalWithinAStepStopsAfterThatStepWithoutValidating) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.eval_interval = 1;
  install_stop_signals();
  clear_stop_signal();
  const RunResult run = run_training(c, 2, std::make_shared<StoppingSource>(17), data());  // step 2 has samples 12 to 23
  clear_stop_signal();
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  ASSERT_EQ(run.losses.size(), 2u);
  EXPECT_TRUE(run.validation_losses[0].has_value());
  EXPECT_FALSE(run.validation_losses[1].has_value());
  EXPECT_TRUE(fs::exists(folder.path() + "/checkpoints/step_2/manifest.json"));
}

TEST(Resume, AnotherFunctionIsRefusedByItsField) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 2;
  c.scheduler.warmup_steps = 0;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.training.steps = 3;
  for (const auto& [field, change] :
       std::map<std::string, std::function<void(Config&)>>{{"rope_theta", [](Config& x) { x.model.rope_theta = 5e5; }},
                                                           {"norm_eps", [](Config& x) { x.model.norm_eps = 1e-6; }}}) {
    Config other = c;
    change(other);
    const RunResult run = run_training(other, 2, data());
    EXPECT_EQ(run.status.code(), Code::invalid_config) << field;
    EXPECT_NE(run.status.message().find(field), std::string::npos) << run.status.message();
  }
  c.training.seq_length = 16;  // and with it max_positions: no other function
  EXPECT_TRUE(run_training(c, 1, data()).status.ok());
}

TEST(Resume, ARefusedRunLeavesTheDescriptionOfTheOneBefore) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 1;
  c.scheduler.warmup_steps = 0;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  const auto text = [&] {
    std::ifstream file(folder.path() + "/config.resolved.yaml");
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string before = text();
  ASSERT_FALSE(before.empty());
  c.run.seed = 2;
  EXPECT_EQ(run_training(c, 1, data()).status.code(), Code::invalid_config);
  EXPECT_EQ(text(), before);
}

TEST(Checkpoint, KeepsTheLastN) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 5;
  c.checkpoint.interval = 1;
  c.checkpoint.keep_last = 2;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  const auto steps = list_step_dirs(folder.path() + "/checkpoints");
  ASSERT_TRUE(steps.ok());
  ASSERT_EQ(steps->size(), 2u);
  EXPECT_EQ((*steps)[0].step, 4);
  EXPECT_EQ((*steps)[1].step, 5);
}

TEST(Checkpoint, AnotherFutureInTheSameFolderIsRefused) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 4;
  c.checkpoint.interval = 2;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  for (const std::string& resume : {std::string("never"), folder.path() + "/checkpoints/step_2"}) {
    c.checkpoint.resume = resume;
    const RunResult run = run_training(c, 2, data());
    EXPECT_EQ(run.status.code(), Code::invalid_config) << resume;
    EXPECT_NE(run.status.message().find("step_4"), std::string::npos) << run.status.message();
  }
}

TEST(Checkpoint, AFlippedByteIsFoundAndNamed) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 2;
  c.scheduler.warmup_steps = 0;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  const std::string file = folder.path() + "/checkpoints/step_2/rank_00000.safetensors";
  {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekg(-5, std::ios::end);
    const int byte = bytes.get();
    bytes.seekp(-5, std::ios::end);
    bytes.put(static_cast<char>(byte ^ 1));
  }
  c.training.steps = 3;
  const RunResult run = run_training(c, 1, data());
  EXPECT_EQ(run.status.code(), Code::corrupt);
  EXPECT_NE(run.status.message().find("rank_00000.safetensors"), std::string::npos) << run.status.message();
}

TEST(Checkpoint, OfAnotherModelIsRefusedByName) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.steps = 1;
  c.scheduler.warmup_steps = 0;
  ASSERT_TRUE(run_training(c, 1, data()).status.ok());
  c.model.ffn_size = 104;
  c.training.steps = 2;
  const RunResult run = run_training(c, 1, data());
  EXPECT_EQ(run.status.code(), Code::invalid_config);
  EXPECT_NE(run.status.message().find("ffn_size is 100"), std::string::npos) << run.status.message();
}

}  // namespace
}  // namespace strata
