// A run takes all its memory before the first step, and every copy of a step between host and GPU is from or to page-locked
// memory: from pageable memory a GPU's queue would stop the host. Mutations that must fail: a HostMirror without its second
// tensor; a buffer allocated by each step.
#include <gtest/gtest.h>

#include "tests/emulator/emulated_driver.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

class GpuSteadyState : public ::testing::TestWithParam<Tier> {};

TEST_P(GpuSteadyState, StepsAllocateNothingAndCopyFromPageLockedMemory) {
  if (testing::kRacesOnly) GTEST_SKIP() << "GpuEquivalence has its threads";
  if (!testing::tests_the_host()) GTEST_SKIP() << "only the emulator counts allocations";
  const TemporaryFolder folder;
  Config c = config_of({2, GetParam(), 4096, false}, folder.path(), DType::bf16);
  c.training.global_batch_size = 2;
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  gpu_emulated::EmulatedDriver* driver = nullptr;
  TrainerExtras extras;
  extras.train = extras.validation = std::make_shared<FormulaSource>(61);
  extras.make_gpu = [&]() -> Result<std::unique_ptr<GpuDriver>> {
    auto made = gpu_emulated::make_emulated_driver();
    driver = made.get();
    return std::unique_ptr<GpuDriver>(std::move(made));
  };
  auto trainer = Trainer::create(c, *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  const auto before = driver->counts();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE((*trainer)->step().ok());
  ASSERT_TRUE((*trainer)->evaluate().ok());
  ASSERT_TRUE((*trainer)->save().ok());
  const auto after = driver->counts();
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_GT(after.copied_bytes, before.copied_bytes);
  EXPECT_EQ(after.pageable_copies, before.pageable_copies);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
const std::vector<Tier> kHomes = {Tier::nvme};  // the emulator takes ten times as long there
#else
const std::vector<Tier> kHomes = {Tier::gpu, Tier::cpu, Tier::nvme};
#endif
INSTANTIATE_TEST_SUITE_P(Homes, GpuSteadyState, ::testing::ValuesIn(kHomes),
                         [](const auto& test) { return std::string(to_string(test.param)); });

}  // namespace
}  // namespace strata
