// Two runs cannot share a folder.
#include "trainer/run_lock.h"

#include <gtest/gtest.h>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

TEST(RunLock, ASecondRunInTheSameFolderIsRefusedByName) {
  const TemporaryFolder folder;
  const Result<RunLock> first = RunLock::take(folder.path());
  ASSERT_TRUE(first.ok()) << first.status().message();
  const Result<RunLock> second = RunLock::take(folder.path(), std::chrono::milliseconds(100));
  ASSERT_EQ(second.status().code(), Code::io_error);
  EXPECT_NE(second.status().message().find(folder.path()), std::string::npos) << second.status().message();
  EXPECT_NE(second.status().message().find(std::to_string(getpid())), std::string::npos) << second.status().message();
}

TEST(RunLock, EndsWithItsObject) {
  const TemporaryFolder folder;
  { ASSERT_TRUE(RunLock::take(folder.path()).ok()); }
  EXPECT_TRUE(RunLock::take(folder.path(), std::chrono::milliseconds(0)).ok());
}

TEST(RunLock, IsTakenByATrainer) {
  const TemporaryFolder folder;
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = std::make_shared<FormulaSource>(61);
  const auto trainer = Trainer::create(small_config(folder.path()), *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  EXPECT_FALSE(RunLock::take(folder.path(), std::chrono::milliseconds(0)).ok());
}

}  // namespace
}  // namespace strata
