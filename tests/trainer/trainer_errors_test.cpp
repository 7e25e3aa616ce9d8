// What happens to all ranks when one fails, and what is refused before training.
#include <gtest/gtest.h>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

// A damaged sample, met by the one rank that draws it.
class DamagedSource final : public DataSource {
 public:
  DamagedSource(std::uint64_t damaged, std::int64_t vocab) : damaged_(damaged), vocab_(vocab) {}
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    if (k == damaged_) return {Code::corrupt, "shard.bin: token 99 at 1234"};
    return formula_.sample(k, out);
  }
  std::uint64_t samples_per_epoch() const override { return formula_.samples_per_epoch(); }
  std::int64_t vocab_size() const override { return vocab_; }

 private:
  std::uint64_t damaged_;
  std::int64_t vocab_;
  FormulaSource formula_{61};
};

TEST(TrainerErrors, ARankThatFailsAloneTellsTheOthersWhy) {
  const TemporaryFolder folder;
  for (const std::int64_t stage : {0, 3}) {
    Config c = small_config(folder.path() + "/stage" + std::to_string(stage));
    c.zero.stage = stage;
    const RunResult run = run_training(c, 3, std::make_shared<DamagedSource>(13, 61));  // step 2, rank 1
    EXPECT_EQ(run.ranks[1].code(), Code::corrupt);
    for (const int other : {0, 2}) {
      const Status& status = run.ranks[static_cast<std::size_t>(other)];
      EXPECT_EQ(status.code(), Code::peer_lost) << status.message();
      EXPECT_NE(status.message().find("shard.bin: token 99 at 1234"), std::string::npos) << status.message();
      EXPECT_FALSE(status.is_on_every_rank());
    }
  }
}

TEST(TrainerErrors, ValidationDataOutsideTheVocabularyIsRefusedBeforeTraining) {
  const TemporaryFolder folder;
  const RunResult run = run_training(small_config(folder.path()), 2, std::make_shared<FormulaSource>(61),
                                     std::make_shared<DamagedSource>(1u << 30, 62));
  EXPECT_EQ(run.status.code(), Code::invalid_config);
  EXPECT_NE(run.status.message().find("data.validation holds token 61"), std::string::npos) << run.status.message();
  EXPECT_TRUE(run.losses.empty());
  for (const Status& status : run.ranks) EXPECT_TRUE(status.is_on_every_rank()) << status.message();
}

TEST(TrainerErrors, AConfigThatContradictsIsTheSameErrorOnEveryRank) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.training.global_batch_size = 13;
  for (const Status& status : run_training(c, 3, std::make_shared<FormulaSource>(61)).ranks) {
    EXPECT_EQ(status.code(), Code::invalid_config);
    EXPECT_TRUE(status.is_on_every_rank()) << status.message();
  }
}

}  // namespace
}  // namespace strata
