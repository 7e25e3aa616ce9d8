// The real NCCL: whether it loads, and, where there is a GPU, a group of one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "parallel/nccl_api.h"
#include "runtime/gpu/cuda.h"

namespace strata {
namespace {

TEST(LoadNccl, LoadsOrSaysWhatIsMissing) {
  const auto nccl = load_nccl();
  if (!nccl.ok()) {
    EXPECT_EQ(nccl.status().code(), Code::unsupported);
    EXPECT_THAT(nccl.status().message(), ::testing::HasSubstr("NCCL"));
    return;
  }
  EXPECT_THAT((*nccl)->version(), ::testing::MatchesRegex("2\\.[0-9]+\\.[0-9]+"));
}

TEST(LoadNccl, MakesADifferentIdForEachGroup) {
  const auto nccl = load_nccl();
  if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
  const auto first = (*nccl)->make_id(), second = (*nccl)->make_id();
  ASSERT_TRUE(first.ok()) << first.status().message();
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_NE(first->bytes, second->bytes);
}

Status until_ready(NcclComm& comm) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline) {
    const auto state = comm.poll();
    if (!state.ok()) return state.status();
    if (*state == NcclComm::State::ready) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {Code::internal, "NCCL is still in progress after 60 s"};
}

class NcclOfOneGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    auto nccl = load_nccl();
    if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
    auto gpu = make_cuda_driver({});
    if (!gpu.ok()) GTEST_SKIP() << gpu.status().message();
    nccl_ = *nccl;
    gpu_ = std::move(gpu).value();
    queue_ = std::move(gpu_->make_queue("nccl")).value();
    memory_ = *gpu_->allocate_device(2 * kBytes);
    auto comm = nccl_->join(*nccl_->make_id(), {0}, {1}, *gpu_);
    ASSERT_TRUE(comm.ok()) << comm.status().message();
    comm_ = std::move(comm).value();
    const Status status = until_ready(*comm_);
    ASSERT_TRUE(status.ok()) << status.message();
    for (std::size_t i = 0; i < kBytes; ++i) sent_.push_back(static_cast<std::byte>(i * 7 % 251));
    queue_->copy(sent_.data(), memory_, kBytes);
    queue_->zero(memory_ + kBytes, kBytes);
  }
  void TearDown() override {
    comm_.reset();
    queue_.reset();
    if (memory_ != nullptr) gpu_->free_device(memory_);
  }
  // What the second half of the memory holds once the operation is over.
  void expect_moved(const Status& called) {
    ASSERT_TRUE(called.ok()) << called.message();
    Status status = until_ready(*comm_);
    ASSERT_TRUE(status.ok()) << status.message();
    std::vector<std::byte> received(kBytes);
    queue_->copy(memory_ + kBytes, received.data(), kBytes);
    status = queue_->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(received, sent_);
  }

  static constexpr std::size_t kBytes = 100003;
  std::shared_ptr<NcclApi> nccl_;
  std::unique_ptr<GpuDriver> gpu_;
  std::unique_ptr<GpuQueue> queue_;
  std::unique_ptr<NcclComm> comm_;
  std::byte* memory_ = nullptr;
  std::vector<std::byte> sent_;
};

TEST_F(NcclOfOneGpu, Gathers) { expect_moved(comm_->all_gather(memory_, memory_ + kBytes, kBytes, *queue_)); }

TEST_F(NcclOfOneGpu, Broadcasts) {
  const NcclComm::Broadcast broadcast{.from = memory_, .to = memory_ + kBytes, .bytes = kBytes, .root = 0};
  expect_moved(comm_->broadcast({&broadcast, 1}, *queue_));
}

TEST_F(NcclOfOneGpu, SendsToItself) {
  const NcclComm::Send send{.from = memory_, .bytes = kBytes, .to = 0};
  const NcclComm::Receive receive{.to = memory_ + kBytes, .bytes = kBytes, .from = 0};
  expect_moved(comm_->exchange({&send, 1}, {&receive, 1}, *queue_));
}

TEST_F(NcclOfOneGpu, LeavesInOrder) {
  expect_moved(comm_->all_gather(memory_, memory_ + kBytes, kBytes, *queue_));
  ASSERT_TRUE(comm_->finalize().ok());
  const Status status = until_ready(*comm_);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(NcclOfOneGpu, RefusesOperationsAfterAnAbort) {
  comm_->abort();
  EXPECT_FALSE(comm_->all_gather(memory_, memory_ + kBytes, kBytes, *queue_).ok());
  EXPECT_FALSE(comm_->poll().ok());
  EXPECT_TRUE(queue_->mark()->wait().ok());
}

}  // namespace
}  // namespace strata
