// A run makes no memory, stream or counter on the GPU after its first step. Events are used again, but how many are alive at
// once depends on how far the host is ahead: those may still be made. Mutation that must fail: a queue or a counter made by
// each step.
#include <gtest/gtest.h>

#include "runtime/gpu/cuda.h"

#ifdef STRATA_FAKE_CUDA  // where the CUDA backend is built

#include "tests/fake_cuda/fake_cuda.h"
#include "tests/trainer/placement.h"
#include "trainer/gpu_setup.h"

namespace strata {
namespace {

// How often anything was made so far, by function.
std::map<std::string, int> made() {
  std::map<std::string, int> calls = fake_cuda::calls();
  std::erase_if(calls, [](const auto& call) {
    const auto has = [&](const char* word) { return call.first.find(word) != std::string::npos; };
    return call.first.starts_with("cudaEvent") || (!has("Create") && !has("lloc") && !has("Register"));
  });
  return calls;
}

class CudaSteadyState : public ::testing::TestWithParam<Tier> {};

TEST_P(CudaSteadyState, StepsAfterTheFirstMakeNothing) {
  fake_cuda::reset();
  const TemporaryFolder folder;
  Config c = config_of({2, GetParam(), 4096, false}, folder.path(), DType::f32);
  c.training.global_batch_size = 2;
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = extras.validation = std::make_shared<FormulaSource>(61);
  extras.make_gpu = [] { return make_gpu_driver(Config(), 0); };
  auto trainer = Trainer::create(c, *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  ASSERT_TRUE((*trainer)->step().ok());
  const std::map<std::string, int> first = made();
  for (const char* function : {"cudaHostAlloc", "cudaHostRegister", "cudaMalloc", "cudaStreamCreateWithFlags"})
    EXPECT_GT(first.count(function), 0u) << function;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE((*trainer)->step().ok());
    EXPECT_EQ(made(), first) << "step " << i + 2;
  }
  ASSERT_TRUE((*trainer)->evaluate().ok());
  ASSERT_TRUE((*trainer)->save().ok());
  EXPECT_EQ(made(), first);
}

INSTANTIATE_TEST_SUITE_P(Homes, CudaSteadyState, ::testing::Values(Tier::gpu, Tier::cpu, Tier::nvme),
                         [](const auto& test) { return std::string(to_string(test.param)); });

}  // namespace
}  // namespace strata

#endif
