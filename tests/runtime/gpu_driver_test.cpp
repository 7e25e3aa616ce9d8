// What driver.h promises, on every GPU of gpu_machines(): the emulator, a real GPU when the program is asked for it, and the
// CUDA body over a fake runtime (tests/fake_cuda).
//
// While a queue waits for a counter nothing is allocated or freed: CUDA may let that wait for the queue.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "runtime/gpu/driver.h"
#include "runtime/gpu/kernel_table.h"
#include "runtime/kernels/elementwise.h"
#include "runtime/kernels/gemm.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kBytes = 20000;  // of every array

class GpuDriverTest : public ::testing::TestWithParam<strata::testing::GpuMachine> {
 protected:
  void SetUp() override {
    driver_ = GetParam().make_driver();
    device_ = driver_->allocate_device(kBytes).value();
    other_ = driver_->allocate_device(kBytes).value();
    up_ = driver_->allocate_pinned(kBytes).value();
    down_ = driver_->allocate_pinned(kBytes).value();
    std::memset(down_, 0, kBytes);
    for (std::size_t i = 0; i < kBytes; ++i) up_[i] = pattern(i);
    queue_ = driver_->make_queue("first").value();
    second_ = driver_->make_queue("second").value();
    counter_ = driver_->make_counter().value();
  }
  void TearDown() override {
    counter_->set(1000);  // nothing waits for ever
    queue_.reset();
    second_.reset();
    counter_.reset();
    driver_->free_device(device_);
    driver_->free_device(other_);
    driver_->free_pinned(up_, kBytes);
    driver_->free_pinned(down_, kBytes);
  }

  static std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 7 + i / 256 + 1); }
  static void expect_ok(GpuQueue& queue) {
    const Status status = queue.mark()->wait();
    EXPECT_TRUE(status.ok()) << status.message();
  }
  // What lies at device memory now, by a queue that has nothing else to do.
  std::vector<std::byte> bytes_at(const std::byte* device, std::size_t n) {
    second_->copy(device, down_, n);
    expect_ok(*second_);
    return {down_, down_ + n};
  }
  static void sleep(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

  std::unique_ptr<GpuDriver> driver_;
  std::byte *device_ = nullptr, *other_ = nullptr, *up_ = nullptr, *down_ = nullptr;
  std::unique_ptr<GpuQueue> queue_, second_;
  std::shared_ptr<GpuCounter> counter_;
};

TEST_P(GpuDriverTest, PropertiesAreThoseOfItsQueues) {
  const GpuProperties& p = driver_->properties();
  EXPECT_FALSE(p.name.empty());
  EXPECT_GE(p.compute_major, 8);
  EXPECT_GE(p.multiprocessors, 1);
  EXPECT_GE(p.memory_bytes, std::size_t{1} << 30);
  EXPECT_GE(p.shared_bytes_per_block, std::size_t{48} << 10);
  EXPECT_EQ(&queue_->properties(), &p);
}

TEST_P(GpuDriverTest, MemoryIsAlignedToPagesAndApart) {
  struct Piece {
    std::byte* data;
    std::size_t bytes;
    bool pinned;
  };
  std::vector<Piece> pieces;
  for (const std::size_t bytes : {1ul, 255ul, 256ul, 257ul, 512ul, 4095ul, 4096ul, 4097ul, 100000ul})
    for (const bool pinned : {false, true})
      pieces.push_back(
          {pinned ? driver_->allocate_pinned(bytes).value() : driver_->allocate_device(bytes).value(), bytes, pinned});
  for (const Piece& a : pieces) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % 4096, 0u) << a.bytes << " bytes, pinned " << a.pinned;
    for (const Piece& b : pieces) {
      if (&a != &b) {
        EXPECT_TRUE(a.data + a.bytes <= b.data || b.data + b.bytes <= a.data);
      }
    }
    queue_->zero(a.data, a.bytes);
  }
  expect_ok(*queue_);
  for (const Piece& piece : pieces)
    piece.pinned ? driver_->free_pinned(piece.data, piece.bytes) : driver_->free_device(piece.data);
  expect_ok(*queue_);
}

TEST_P(GpuDriverTest, CopiesMoveExactlyWhatTheyAreAskedFor) {
  for (const std::size_t n : {0ul, 1ul, 15ul, 16ul, 17ul, 4096ul, 4097ul}) {
    SCOPED_TRACE(n);
    queue_->zero(device_, kBytes);
    queue_->zero(other_, kBytes);
    queue_->copy(up_, device_ + 3, n);         // up
    queue_->copy(device_ + 3, other_ + 1, n);  // on the device
    expect_ok(*queue_);
    const std::vector<std::byte> found = bytes_at(other_, n + 2);  // down
    EXPECT_EQ(found.front(), std::byte{0});
    EXPECT_EQ(found.back(), std::byte{0});
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(found[1 + i], pattern(i)) << i;
  }
}

TEST_P(GpuDriverTest, CopiesBetweenPageLockedMemory) {
  queue_->copy(up_, down_, kBytes);
  expect_ok(*queue_);
  EXPECT_EQ(std::memcmp(up_, down_, kBytes), 0);
}

TEST_P(GpuDriverTest, ZeroClearsExactlyWhatItIsAskedFor) {
  for (const std::size_t n : {0ul, 1ul, 33ul, 5000ul}) {
    queue_->copy(up_, device_, kBytes);
    queue_->zero(device_ + 1, n);
    expect_ok(*queue_);
    const std::vector<std::byte> found = bytes_at(device_, n + 2);
    for (std::size_t i = 0; i < n + 2; ++i) ASSERT_EQ(found[i], i == 0 || i == n + 1 ? pattern(i) : std::byte{0}) << i;
  }
}

TEST_P(GpuDriverTest, AQueueRunsInOrder) {
  queue_->wait(*counter_, 1);
  for (int i = 0; i < 200; ++i) {
    queue_->zero(device_, kBytes);
    queue_->copy(up_ + i, device_, 100);
    queue_->copy(device_, other_ + i, 1);
  }
  const auto mark = queue_->mark();
  counter_->set(1);
  EXPECT_TRUE(mark->wait().ok());
  const std::vector<std::byte> found = bytes_at(other_, 200);
  for (std::size_t i = 0; i < 200; ++i) ASSERT_EQ(found[i], pattern(i)) << i;
  EXPECT_EQ(bytes_at(device_, 101)[100], std::byte{0});
}

TEST_P(GpuDriverTest, KernelsAndProductsAreInTheQueuesOrderToo) {
  // x = (1, .., 8), then twice x = x + x; C = x I.
  auto* const values = reinterpret_cast<float*>(up_);
  for (int i = 0; i < 8; ++i) values[i] = static_cast<float>(i + 1);
  for (int i = 0; i < 64; ++i) values[8 + i] = i % 9 == 0 ? 1.0f : 0.0f;
  const TensorRef x{device_, DType::f32, {8}};
  queue_->set_scratch({other_ + 4096, kBytes - 4096});
  queue_->wait(*counter_, 1);
  queue_->copy(up_, device_, 32);
  queue_->copy(up_ + 32, device_ + 4096, 256);
  for (int i = 0; i < 2; ++i) driver_->kernels().add({.a = x, .b = x, .y = x}, *queue_);
  driver_->gemm({.shape = {.m = 1, .n = 8, .k = 8}, .pointers = {.a = device_, .b = device_ + 4096, .c = other_}}, *queue_);
  queue_->zero(device_, 32);
  counter_->set(1);
  expect_ok(*queue_);
  const std::vector<std::byte> found = bytes_at(other_, 32);
  for (int i = 0; i < 8; ++i) {
    float value = 0.0f;
    std::memcpy(&value, found.data() + 4 * i, 4);
    EXPECT_EQ(value, 4.0f * static_cast<float>(i + 1));
  }
}

TEST_P(GpuDriverTest, AMarkIsCompleteOnceTheQueueHasReachedIt) {
  const auto before = queue_->mark();
  EXPECT_TRUE(before->wait().ok());
  EXPECT_TRUE(before->is_complete());
  queue_->wait(*counter_, 1);
  const auto mark = queue_->mark();
  sleep(5);
  EXPECT_FALSE(mark->is_complete());
  EXPECT_TRUE(before->is_complete()) << "marks do not move";
  std::atomic<bool> returned = false;
  std::thread waiter([&] {
    EXPECT_TRUE(mark->wait().ok());
    returned = true;
  });
  sleep(5);
  EXPECT_FALSE(returned);
  counter_->set(1);
  waiter.join();
  EXPECT_TRUE(mark->is_complete());
  EXPECT_TRUE(mark->wait().ok()) << "again";
}

TEST_P(GpuDriverTest, AskingForAMarkHarmsNoLaunchAfterIt) {
  queue_->wait(*counter_, 1);
  const auto mark = queue_->mark();
  EXPECT_FALSE(mark->is_complete());
  const TensorRef x{device_, DType::f32, {8}};
  driver_->kernels().add({.a = x, .b = x, .y = x}, *second_);
  expect_ok(*second_);
}

TEST_P(GpuDriverTest, CountersAreReachedFromBelowAndWrap) {
  queue_->wait(*counter_, 0);
  expect_ok(*queue_);
  counter_->set(5);
  for (const std::uint32_t value : {4u, 5u}) {
    queue_->wait(*counter_, value);
    expect_ok(*queue_);
  }
  queue_->wait(*counter_, 7);
  const auto mark = queue_->mark();
  counter_->set(6);
  sleep(5);
  EXPECT_FALSE(mark->is_complete());
  counter_->set(8);
  EXPECT_TRUE(mark->wait().ok());
  counter_->set(0x80000000u);
  counter_->set(0xffffffffu);
  queue_->wait(*counter_, 1);  // beyond the end
  const auto wrapped = queue_->mark();
  sleep(5);
  EXPECT_FALSE(wrapped->is_complete());
  counter_->set(1);
  EXPECT_TRUE(wrapped->wait().ok());
}

TEST_P(GpuDriverTest, WhatTheHostWroteBeforeACounterIsSeenBehindIt) {
  for (std::uint32_t turn = 1; turn <= 100; ++turn) {
    queue_->wait(*counter_, turn);
    queue_->copy(up_, device_ + turn, 1);
    const auto mark = queue_->mark();
    std::thread host([&] {
      up_[0] = static_cast<std::byte>(turn);
      counter_->set(turn);
    });
    EXPECT_TRUE(mark->wait().ok());
    host.join();
  }
  const std::vector<std::byte> found = bytes_at(device_, 101);
  for (std::size_t turn = 1; turn <= 100; ++turn) ASSERT_EQ(found[turn], static_cast<std::byte>(turn));
}

TEST_P(GpuDriverTest, AQueueWaitsForAMarkOfAnotherAndNoFurther) {
  queue_->wait(*counter_, 1);
  queue_->copy(up_, device_, 100);
  {
    const auto mark = queue_->mark();
    second_->wait(*mark);
  }  // a mark may go once the wait is enqueued
  queue_->wait(*counter_, 2);
  queue_->zero(device_, 100);
  second_->copy(device_, down_, 100);
  const auto copied = second_->mark();
  sleep(10);
  EXPECT_FALSE(copied->is_complete());
  counter_->set(1);
  EXPECT_TRUE(copied->wait().ok()) << "the second wait of the first queue is behind the mark";
  EXPECT_EQ(std::memcmp(up_, down_, 100), 0);
  counter_->set(2);
  expect_ok(*queue_);
}

TEST_P(GpuDriverTest, MarksOrderQueuesBothWaysAgainAndAgain) {
  // One byte goes back and forth; thousands of marks come and go.
  queue_->copy(up_, device_, 1);
  for (std::size_t i = 0; i < 2000; ++i) {
    second_->wait(*queue_->mark());
    second_->copy(device_ + i, device_ + i + 1, 1);
    queue_->wait(*second_->mark());
    if (i % 2 == 0) queue_->copy(device_ + i + 1, other_ + i, 1);
  }
  expect_ok(*queue_);
  expect_ok(*second_);
  for (const std::byte byte : bytes_at(device_, 2001)) ASSERT_EQ(byte, pattern(0));
}

TEST_P(GpuDriverTest, WaitingForWhatIsOverOrForItselfIsNothing) {
  const auto own = queue_->mark();
  queue_->wait(*own);
  expect_ok(*queue_);
  second_->wait(*own);
  expect_ok(*second_);
}

TEST_P(GpuDriverTest, AQueueFinishesWhatItHasBeforeItGoesAndItsMarksStay) {
  queue_->wait(*counter_, 1);
  queue_->copy(up_, device_, 100);
  const auto mark = queue_->mark();
  std::thread opener([&] {
    sleep(10);
    counter_->set(1);
  });
  queue_.reset();
  EXPECT_TRUE(mark->is_complete());
  EXPECT_TRUE(mark->wait().ok());
  opener.join();
  EXPECT_EQ(bytes_at(device_, 100)[99], pattern(99));
  second_->wait(*mark);
  expect_ok(*second_);
}

TEST_P(GpuDriverTest, TimestampsTellTheTimeBetweenPointsOfTwoQueues) {
  const auto begin = queue_->timestamp();
  queue_->wait(*counter_, 1);
  const auto end = queue_->timestamp();
  second_->wait(*queue_->mark());
  const auto later = second_->timestamp();
  const auto started = std::chrono::steady_clock::now();
  sleep(30);
  EXPECT_FALSE(end->is_complete());
  counter_->set(1);
  expect_ok(*queue_);
  expect_ok(*second_);
  ASSERT_TRUE(begin->is_complete() && end->is_complete() && later->is_complete());
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() + 1.0;
  EXPECT_GE(end->seconds_since(*begin), 0.025);
  EXPECT_LE(end->seconds_since(*begin), whole);
  EXPECT_GE(later->seconds_since(*end), 0.0);
  EXPECT_LE(later->seconds_since(*end), whole);
  EXPECT_EQ(begin->seconds_since(*begin), 0.0);
}

TEST_P(GpuDriverTest, TheFirstFailureIsToldByEveryMarkBehindIt) {
  queue_->fail({Code::io_error, "the first"});
  queue_->fail({Code::internal, "the second"});
  for (int i = 0; i < 2; ++i) {
    const Status status = queue_->mark()->wait();
    EXPECT_EQ(status.code(), Code::io_error);
    EXPECT_THAT(status.message(), HasSubstr("the first"));
  }
  expect_ok(*second_);
  second_->wait(*queue_->mark());
  expect_ok(*second_);  // the error of a queue is its own
}

TEST_P(GpuDriverTest, AFaultThatAKernelReportedIsToldByTheMarkBehindIt) {
  expect_ok(*queue_);
  *queue_->fault() = GpuFault::at(GpuFaultKind::token_outside_vocabulary, 3, 77, 50);
  const Status status = queue_->mark()->wait();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_THAT(status.message(), HasSubstr("77"));
  expect_ok(*second_);
}

TEST_P(GpuDriverTest, MemoryThatIsNotThereIsAnErrorAndNothingElseSuffers) {
  const Result<std::byte*> refused = driver_->allocate_device(driver_->properties().memory_bytes + (std::size_t{1} << 40));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::out_of_budget);
  EXPECT_THAT(refused.status().message(), HasSubstr("GPU"));
  EXPECT_FALSE(driver_->allocate_pinned(std::size_t{1} << 62).ok());
  const TensorRef x{device_, DType::f32, {8}};
  driver_->kernels().add({.a = x, .b = x, .y = x}, *queue_);
  queue_->copy(up_, device_, kBytes);
  expect_ok(*queue_);
  std::byte* const again = driver_->allocate_device(1000).value();
  driver_->free_device(again);
}

TEST_P(GpuDriverTest, RangesNestAndChangeNothing) {
  queue_->begin_range("outer");
  queue_->begin_range("inner");
  queue_->zero(device_, 8);
  queue_->end_range();
  queue_->end_range();
  expect_ok(*queue_);
}

TEST_P(GpuDriverTest, ThreadsWithQueuesOfTheirOwnDoNotDisturbEachOther) {
  constexpr std::size_t kThreads = 4, kPart = 1000;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      const auto queue = driver_->make_queue("of a thread").value();
      for (int i = 0; i < 50; ++i) {
        queue->zero(device_ + t * kPart, kPart);
        queue->copy(up_ + t * kPart, device_ + t * kPart, kPart);
        queue->copy(device_ + t * kPart, down_ + t * kPart, kPart);
        ASSERT_TRUE(queue->mark()->wait().ok());
        ASSERT_EQ(std::memcmp(up_ + t * kPart, down_ + t * kPart, kPart), 0);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_P(GpuDriverTest, ReadingsAreReadOrSaidToBeUnsupported) {
  const Result<GpuReadings> readings = driver_->readings();
  if (!readings.ok()) {
    EXPECT_EQ(readings.status().code(), Code::unsupported) << readings.status().message();
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, GpuDriverTest, ::testing::ValuesIn(strata::testing::gpu_machines()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace strata
