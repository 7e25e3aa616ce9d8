// What is refused before training, on every rank alike.
#include <gtest/gtest.h>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

// Says that it has more tokens than the model's vocabulary.
class WideSource final : public DataSource {
 public:
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override { return formula_.sample(k, out); }
  std::uint64_t samples_per_epoch() const override { return formula_.samples_per_epoch(); }
  std::int64_t vocab_size() const override { return 62; }

 private:
  FormulaSource formula_{61};
};

TEST(TrainerErrors, ValidationDataOutsideTheVocabularyIsRefusedBeforeTraining) {
  const TemporaryFolder folder;
  const RunResult run =
      run_training(small_config(folder.path()), 2, std::make_shared<FormulaSource>(61), std::make_shared<WideSource>());
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
