// Streams, events and arenas of a device, on every processor: the host's threads, and with a GPU its queues and host threads
// beside them, which wait for each other both ways. Memory of the gpu tier is reached by copies alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kPage = TierArena::kAlignment;
constexpr std::size_t kBytes = 64 * 1024;

class DeviceStreamsTest : public ::testing::TestWithParam<strata::testing::Processor> {
 protected:
  void SetUp() override {
    const strata::testing::GpuMachine* const gpu = GetParam().gpu;
    if (gpu == nullptr)
      device_.emplace(Backend::host, 2);
    else
      device_.emplace(gpu->make_driver(), 2);
    gpu_tier_.emplace(Tier::gpu, 64 * kPage, *device_);
    cpu_tier_.emplace(Tier::cpu, 64 * kPage, *device_);
    far_ = take(*gpu_tier_, kBytes);
    up_ = take(*cpu_tier_, kBytes);
    down_ = take(*cpu_tier_, kBytes);
    for (std::size_t i = 0; i < kBytes; ++i) up_.data()[i] = static_cast<std::byte>(i % 251);
    std::memset(down_.data(), 0, kBytes);
    for (Stream* const s : {&compute_.emplace(*device_, "compute"), &copies_.emplace(*device_, "copies"),
                            &host_.emplace(*device_, "host", StreamKind::host)})
      ASSERT_TRUE(s->ref().synchronize().ok());
  }
  static Buffer take(TierArena& arena, std::size_t bytes) { return arena.allocate(bytes, Category::workspace, "test").value(); }
  // Host work that ends when the test says so.
  void close() { open_ = false; }
  void open() { open_ = true; }
  void enqueue_gate() {
    host_->ref().enqueue("gate", [this] {
      while (!open_) std::this_thread::yield();
      return Status();
    });
  }
  static void expect_ok(Stream& stream) {
    const Status status = stream.ref().synchronize();
    EXPECT_TRUE(status.ok()) << status.message();
  }
  bool came_down() const { return std::memcmp(up_.data(), down_.data(), kBytes) == 0; }

  std::atomic<bool> open_ = true;
  std::optional<Device> device_;
  std::optional<TierArena> gpu_tier_, cpu_tier_;
  Buffer far_, up_, down_;
  std::optional<Stream> compute_, copies_, host_;
};

TEST_P(DeviceStreamsTest, WhoServesAStreamIsItsKind) {
  const bool gpu = GetParam().gpu != nullptr;
  EXPECT_EQ(compute_->ref().on_gpu(), gpu);
  EXPECT_FALSE(host_->ref().on_gpu());
  EXPECT_EQ(device_->backend(), gpu ? Backend::cuda : Backend::host);
  EXPECT_EQ(device_->has_separate_memory(), gpu);
}

TEST_P(DeviceStreamsTest, CopiesRunInOrder) {
  for (int i = 0; i < 20; ++i) {
    zero_async(far_.data(), kBytes, *compute_);
    copy_async(up_.data(), far_.data(), kBytes, *compute_);
    copy_async(far_.data(), down_.data(), kBytes, *compute_);
    zero_async(far_.data(), kBytes, *compute_);
  }
  expect_ok(*compute_);
  EXPECT_TRUE(came_down());
}

TEST_P(DeviceStreamsTest, AStreamWaitsForHostWorkAndHostWorkForIt) {
  close();
  enqueue_gate();
  host_->ref().enqueue("write", [this] {
    up_.data()[0] = std::byte{99};
    return Status();
  });
  const Event written = host_->ref().record();
  compute_->ref().wait(written);
  copy_async(up_.data(), far_.data(), kBytes, *compute_);
  copies_->ref().wait(compute_->ref().record());
  copy_async(far_.data(), down_.data(), kBytes, *copies_);
  const Event copied = copies_->ref().record();
  std::byte seen{};
  host_->ref().wait(copied);
  host_->ref().enqueue("read", [this, &seen] {
    seen = down_.data()[0];
    return Status();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(written.is_complete() || copied.is_complete());
  open();
  expect_ok(*host_);
  EXPECT_EQ(seen, std::byte{99});
  EXPECT_TRUE(came_down());
  EXPECT_TRUE(written.is_complete() && copied.is_complete());
}

TEST_P(DeviceStreamsTest, StreamsThatDoNotWaitForEachOtherDoNot) {
  close();
  enqueue_gate();
  compute_->ref().wait(host_->ref().record());
  zero_async(far_.data(), 16, *compute_);
  const Event late = compute_->ref().record();
  copy_async(up_.data(), down_.data(), kBytes, *copies_);
  expect_ok(*copies_);
  EXPECT_FALSE(late.is_complete());
  open();
  EXPECT_TRUE(late.wait().ok());
}

TEST_P(DeviceStreamsTest, AHostsErrorReachesWhoeverWaitsAndNobodyElse) {
  host_->ref().enqueue("bad", [] { return Status(Code::io_error, "disk on fire"); });
  const Event failed = host_->ref().record();
  copies_->ref().wait(failed);
  copy_async(up_.data(), far_.data(), kBytes, *copies_);
  const Status status = copies_->ref().synchronize();
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_THAT(status.message(), HasSubstr("disk on fire"));
  // And on through the GPU to another host stream, whose work is then left out.
  Stream other(*device_, "other", StreamKind::host);
  bool ran = false;
  other.ref().wait(copies_->ref().record());
  other.ref().enqueue("skipped", [&] {
    ran = true;
    return Status();
  });
  EXPECT_EQ(other.ref().synchronize().code(), Code::io_error);
  EXPECT_FALSE(ran);
  expect_ok(*compute_);
  (void)host_->ref().synchronize();
}

TEST_P(DeviceStreamsTest, AStreamFinishesWhatItHasWhenItGoes) {
  close();
  enqueue_gate();
  compute_->ref().wait(host_->ref().record());
  copy_async(up_.data(), far_.data(), kBytes, *compute_);
  copy_async(far_.data(), down_.data(), kBytes, *compute_);
  const Event done = compute_->ref().record();
  std::thread opener([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    open();
  });
  compute_.reset();
  EXPECT_TRUE(done.is_complete());
  EXPECT_TRUE(done.wait().ok());
  EXPECT_TRUE(came_down());
  opener.join();
}

TEST_P(DeviceStreamsTest, HundredsOfHandoversKeepTheirOrder) {
  // A counter in host memory goes up and down again; each side adds to it.
  std::uint32_t value = 0;
  std::memset(up_.data(), 0, kBytes);
  for (int i = 0; i < 300; ++i) {
    host_->ref().enqueue("add", [this, &value] {
      std::memcpy(&value, down_.data(), sizeof value);
      ++value;
      std::memcpy(up_.data(), &value, sizeof value);
      return Status();
    });
    compute_->ref().wait(host_->ref().record());
    copy_async(up_.data(), far_.data(), 4, *compute_);
    copies_->ref().wait(compute_->ref().record());
    copy_async(far_.data(), down_.data(), 4, *copies_);
    host_->ref().wait(copies_->ref().record());
  }
  expect_ok(*host_);
  EXPECT_EQ(value, 300u);
}

TEST_P(DeviceStreamsTest, BusyTimeOfBothKindsGrowsWithTheirWork) {
  const double before = copies_->busy_seconds();
  for (int i = 0; i < 50; ++i) copy_async(up_.data(), down_.data(), kBytes, *copies_);
  host_->ref().enqueue("sleep", [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return Status();
  });
  expect_ok(*copies_);
  expect_ok(*host_);
  EXPECT_GT(copies_->busy_seconds(), before);
  EXPECT_GE(host_->busy_seconds(), 0.009);
}

TEST_P(DeviceStreamsTest, TiersAreBoundedAlignedAndOutlivedByTheirBuffers) {
  for (const Tier tier : {Tier::gpu, Tier::cpu}) {
    Buffer kept;
    {
      TierArena arena(tier, 4 * kPage, *device_);
      const Buffer odd = take(arena, 1);
      kept = take(arena, 3 * kPage);
      for (const std::byte* const data : {odd.data(), kept.data()})
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % kPage, 0u);
      const Result<Buffer> more = arena.allocate(1, Category::workspace, "logits");
      ASSERT_FALSE(more.ok());
      EXPECT_EQ(more.status().code(), Code::out_of_budget);
      EXPECT_THAT(more.status().message(), HasSubstr(tier == Tier::gpu ? "memory.gpu" : "memory.cpu"));
      EXPECT_EQ(arena.report().high_water, 4 * kPage);
    }
    copy_async(up_.data(), kept.data(), 3 * kPage, *compute_);
    copy_async(kept.data(), down_.data(), 3 * kPage, *compute_);
    expect_ok(*compute_);
    EXPECT_EQ(std::memcmp(up_.data(), down_.data(), 3 * kPage), 0);
  }
}

TEST_P(DeviceStreamsTest, ATierThatIsNotThereIsRefusedWithItsName) {
  if (GetParam().gpu == nullptr) GTEST_SKIP() << "the host's memory is taken as it is touched";
  const std::size_t too_much = device_->gpu().properties().memory_bytes + (std::size_t{1} << 40);
  try {
    const TierArena arena(Tier::gpu, too_much, *device_);
    FAIL() << "that much memory is nowhere";
  } catch (const StatusError& error) {
    EXPECT_EQ(error.status().code(), Code::out_of_budget);
    EXPECT_THAT(error.status().message(), HasSubstr("gpu tier"));
  }
  copy_async(up_.data(), down_.data(), kBytes, *compute_);
  expect_ok(*compute_);
}

INSTANTIATE_TEST_SUITE_P(Processors, DeviceStreamsTest, ::testing::ValuesIn(strata::testing::processors()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace strata
