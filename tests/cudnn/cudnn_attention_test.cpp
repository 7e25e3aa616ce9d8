// cuDNN's plans for attention on GPUs that are not here: that its engines know the patterns, for which shapes, with how much
// workspace; code is compiled to the end. What no test without a GPU can say: the numbers, and the speed
// (tests/runtime/kernels_attention_test.cpp runs them where there is one).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#ifdef STRATA_ABSENT_GPU  // where the CUDA backend is built
#include "runtime/gpu/cuda/cudnn_attention_plans.h"
#else
#define STRATA_HAS_CUDNN 0
#endif

#if STRATA_HAS_CUDNN

#include <dlfcn.h>

namespace strata {
namespace {

using Direction = CudnnAttentionPlans::Direction;
using ::testing::HasSubstr;

constexpr std::size_t kScratch = std::size_t{64} << 20;

// What cuDNN asks of a device, as its version 9.19 writes it down.
std::string properties_of(const char* name, int version, int multiprocessors, int shared_bytes) {
  return R"({"cudaDeviceId":0,"driverVer":13000,"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
         R"("regsPerBlock":65536,"warpSize":32,"maxSharedMemoryPerBlock":49152,"reservedSharedMemoryPerBlock":1024,)"
         R"("maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,)"
         R"("totalGlobalMem":85028503552,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,"smClockRateKHz":1980000,)"
         R"("memClockRateKHz":2619000,"l2CacheSize":52428800,"deviceName":")" +
         std::string(name) + R"(","deviceVer":)" + std::to_string(version) + R"(,"multiProcessorCount":)" +
         std::to_string(multiprocessors) + R"(,"maxSharedMemoryPerBlockOptin":)" + std::to_string(shared_bytes) + "}";
}
std::string h100() { return properties_of("NVIDIA H100 80GB HBM3", 900, 132, 232448); }
std::string a100() { return properties_of("NVIDIA A100-SXM4-80GB", 800, 108, 166912); }

class CudnnAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Before cuDNN looks for the driver: it finds what is loaded under that name.
    void* const gpu = dlopen(STRATA_ABSENT_GPU, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(gpu, nullptr) << dlerror();
    last_kernel_ = reinterpret_cast<const char* (*)()>(dlsym(gpu, "absent_gpu_last_kernel"));
    kernels_ = reinterpret_cast<int (*)()>(dlsym(gpu, "absent_gpu_kernels"));
    ASSERT_TRUE(last_kernel_ != nullptr && kernels_ != nullptr);
    auto api = CudnnApi::load();
    if (!api.ok()) GTEST_SKIP() << api.status().message();
    api_ = std::move(api).value();
  }
  CudnnAttentionPlans plans(const std::string& device) const {
    Result<CudnnDescriptor> properties = cudnn_properties(api_, std::string_view(device));
    EXPECT_TRUE(properties.ok()) << properties.status().message();
    return {api_, std::move(properties).value()};
  }
  std::string kernel() const { return last_kernel_(); }

  std::shared_ptr<const CudnnApi> api_;
  const char* (*last_kernel_)() = nullptr;
  int (*kernels_)() = nullptr;
};

kernels::AttentionShape shape(std::int64_t B, std::int64_t T, std::int64_t N, std::int64_t K, std::int64_t H) {
  return {.B = B, .T = T, .N = N, .K = K, .H = H, .scale = 0.125f};
}

class CudnnHeadSizes : public CudnnAttentionTest,
                       public ::testing::WithParamInterface<std::tuple<std::int64_t, std::int64_t>> {};

TEST_P(CudnnHeadSizes, HavePlansOnAnH100ThatKeepTheScoresGradientWhole) {
  const auto [H, K] = GetParam();
  CudnnAttentionPlans cudnn = plans(h100());
  const kernels::AttentionShape s = shape(2, 1025, 4, K, H);
  const auto forward = cudnn.get(Direction::forward, s, kScratch);
  ASSERT_TRUE(forward.ok()) << forward.status().message();
  EXPECT_THAT(kernel(), HasSubstr("sdpa_sm90_flash_fprop"));
  EXPECT_LE((*forward)->plan.workspace, 4096u);
  const auto backward = cudnn.get(Direction::backward, s, kScratch);
  ASSERT_TRUE(backward.ok()) << backward.status().message();
  EXPECT_THAT(kernel(), HasSubstr("sdpa_sm90_flash_bprop"));
  // dq is then one product, whose sum has one order. Engines that add to dq as blocks end need no such room, and do not say of
  // themselves that their bits depend on time.
  EXPECT_GE((*backward)->plan.workspace, static_cast<std::size_t>(2 * s.B * s.N * s.T * s.T));
  EXPECT_LE((*backward)->plan.workspace, kScratch);
  EXPECT_EQ((*backward)->part.B, s.B);
}

INSTANTIATE_TEST_SUITE_P(OfModels, CudnnHeadSizes,
                         ::testing::Combine(::testing::Values(64, 80, 96, 128, 256), ::testing::Values(4, 2)),
                         [](const auto& test) {
                           return "H" + std::to_string(std::get<0>(test.param)) + "K" + std::to_string(std::get<1>(test.param));
                         });

TEST_F(CudnnAttentionTest, TakesShortAndUnevenLengths) {
  CudnnAttentionPlans cudnn = plans(h100());
  for (const std::int64_t T : {2, 65}) {
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      const auto plan = cudnn.get(direction, shape(1, T, 2, 1, 64), kScratch);
      EXPECT_TRUE(plan.ok()) << plan.status().message();
    }
  }
}

TEST_F(CudnnAttentionTest, TakesAnA100sHeadsUpTo128) {
  CudnnAttentionPlans cudnn = plans(a100());
  for (const std::int64_t H : {64, 128}) {
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      const auto plan = cudnn.get(direction, shape(2, 130, 4, 2, H), kScratch);
      EXPECT_TRUE(plan.ok()) << plan.status().message();
    }
  }
  const auto large = cudnn.get(Direction::backward, shape(2, 130, 4, 2, 256), kScratch);
  EXPECT_EQ(large.status().code(), Code::unsupported);
  EXPECT_THAT(large.status().message(), HasSubstr("device.attention"));
}

TEST_F(CudnnAttentionTest, MakesAPlanOnceForAShape) {
  CudnnAttentionPlans cudnn = plans(h100());
  const auto first = cudnn.get(Direction::forward, shape(1, 64, 2, 2, 64), kScratch);
  ASSERT_TRUE(first.ok()) << first.status().message();
  const int compiled = kernels_();
  EXPECT_EQ(*first, *cudnn.get(Direction::forward, shape(1, 64, 2, 2, 64), kScratch));
  EXPECT_EQ(kernels_(), compiled);
  EXPECT_NE(*first, *cudnn.get(Direction::forward, shape(1, 65, 2, 2, 64), kScratch));
}

// dS of one head of 512 tokens is 512 KiB.
TEST_F(CudnnAttentionTest, CutsTheBackwardToTheWorkspaceAndRefusesWhatCannotBeCut) {
  CudnnAttentionPlans cudnn = plans(h100());
  const auto part = [&](std::size_t workspace) {
    const auto plan = cudnn.get(Direction::backward, shape(4, 512, 4, 4, 64), workspace);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    if (!plan.ok()) return std::pair<std::int64_t, std::int64_t>();
    EXPECT_LE((*plan)->plan.workspace, workspace);
    return std::pair((*plan)->part.B, (*plan)->part.K);
  };
  EXPECT_EQ(part(9 << 20), std::pair(std::int64_t{4}, std::int64_t{4}));
  EXPECT_EQ(part(8 << 20), std::pair(std::int64_t{2}, std::int64_t{4}));
  EXPECT_EQ(part(3 << 20), std::pair(std::int64_t{1}, std::int64_t{4}));
  EXPECT_EQ(part(1200 << 10), std::pair(std::int64_t{1}, std::int64_t{2}));
  const auto refused = cudnn.get(Direction::backward, shape(4, 512, 4, 4, 64), 256 << 10);
  EXPECT_EQ(refused.status().code(), Code::unsupported);
  EXPECT_THAT(refused.status().message(), HasSubstr("workspace"));
}

TEST_F(CudnnAttentionTest, RefusesWhatItsEnginesDoNotTake) {
  CudnnAttentionPlans cudnn = plans(h100());
  for (const kernels::AttentionShape& s : {shape(1, 64, 1, 1, 20), shape(1, 1, 1, 1, 64), shape(1, 64, 1, 1, 512)}) {
    const auto plan = cudnn.get(Direction::backward, s, kScratch);
    EXPECT_EQ(plan.status().code(), Code::unsupported);
    EXPECT_THAT(plan.status().message(), HasSubstr("device.attention"));
  }
}

}  // namespace
}  // namespace strata

#else

TEST(CudnnAttentionTest, NeedsItsHeaders) { GTEST_SKIP() << "built without CUDA or without cuDNN's headers"; }

#endif
