// Ranks that take turns at their drives (nvme.exclusive). Mutations that must fail: engine_options() without the key; the
// trainer without the number of ranks; a store that does not pass it on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nvme/turn_file.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

Config everything_on_nvme(const std::string& folder, AutoOnOff exclusive) {
  Config c = config_of({.stage = 2,
                        .home = Tier::nvme,
                        .record_size = 4096,
                        .recompute = false,
                        .params = Tier::nvme,
                        .grads = Tier::nvme,
                        .grads_dtype = DType::bf16,
                        .activations = Tier::nvme},
                       folder, DType::bf16);
  c.training.steps = 6;
  c.offload.micro_batch_order = Config::Offload::Order::vertical;
  c.model.tie_embeddings = false;
  c.nvme.path = {folder + "/drive0", folder + "/drive1"};
  c.nvme.weights = {1.0, 2.0};
  c.nvme.exclusive = exclusive;
  return c;
}

TEST(Turns, ChangeNoBitAndLeaveNothing) {
  const auto data = std::make_shared<FormulaSource>(61);
  std::string digests[2];
  for (const bool by_turns : {false, true}) {
    const TemporaryFolder folder;
    const Config c = everything_on_nvme(folder.path(), by_turns ? AutoOnOff::on : AutoOnOff::off);
    const RunResult run = run_training(c, 2, data);
    ASSERT_TRUE(run.status.ok()) << run.status.message();
    digests[by_turns] = run.digest;
    for (const std::string& path : c.nvme.path) EXPECT_TRUE(fs::is_empty(path)) << path;
  }
  EXPECT_FALSE(digests[0].empty());
  EXPECT_EQ(digests[1], digests[0]);
}

// Somebody has the turn to write for ever: who takes turns finds out.
TEST(Turns, TheKeyReachesWhatTheDriveHolds) {
  const auto data = std::make_shared<FormulaSource>(61);
  struct Case {
    AutoOnOff exclusive;
    int world;
    bool waits;
  };
  for (const Case& one : {Case{AutoOnOff::on, 2, true}, Case{AutoOnOff::off, 2, false}, Case{AutoOnOff::on, 1, false}}) {
    const TemporaryFolder folder;
    Config c = everything_on_nvme(folder.path(), one.exclusive);
    c.training.steps = 4;
    c.nvme.timeout = 0.5;
    fs::create_directories(c.nvme.path[1]);
    const auto holder = TurnFile::open(c.nvme.path[1]).value();
    ASSERT_TRUE(holder->take(IoRequest::Kind::write, std::chrono::seconds(1)).ok());
    const RunResult run = run_training(c, one.world, data);
    if (!one.waits) {
      EXPECT_TRUE(run.status.ok()) << run.status.message();
      continue;
    }
    bool named = false;
    for (const Status& status : run.ranks)
      named = named || status.message().find(holder->path() + ": waited ") != std::string::npos;
    EXPECT_TRUE(named) << run.status.message();
  }
}

}  // namespace
}  // namespace strata
