#include "runtime/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace strata {
namespace {

using std::chrono::milliseconds;

// Lets an operation of a stream wait until the test opens it.
class Gate {
 public:
  void open() { open_ = true; }
  Status pass() const {
    while (!open_) std::this_thread::yield();
    return {};
  }

 private:
  std::atomic<bool> open_{false};
};

class StreamTest : public ::testing::Test {
 protected:
  Device device_{Backend::host, 2};
};

TEST_F(StreamTest, OperationsRunInOrder) {
  Stream stream(device_, "compute");
  std::vector<int> order;
  for (int i = 0; i < 100; ++i)
    stream.ref().enqueue("op", [&order, i] {
      order.push_back(i);
      return Status();
    });
  ASSERT_TRUE(stream.ref().synchronize().ok());
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST_F(StreamTest, EnqueueAndRecordDoNotBlock) {
  Stream stream(device_, "compute");
  Gate gate;
  stream.ref().enqueue("gate", [&] { return gate.pass(); });
  const Event event = stream.ref().record();
  EXPECT_FALSE(event.is_complete());
  gate.open();
  EXPECT_TRUE(event.wait().ok());
  EXPECT_TRUE(event.is_complete());
}

TEST_F(StreamTest, ADefaultEventIsComplete) {
  const Event event;
  EXPECT_TRUE(event.is_complete());
  EXPECT_TRUE(event.wait().ok());
  Stream stream(device_, "compute");
  stream.ref().wait(event);
  EXPECT_TRUE(stream.ref().synchronize().ok());
}

// Each operation finishes only while the other one runs.
TEST_F(StreamTest, TwoStreamsOverlap) {
  Stream a(device_, "a"), b(device_, "b");
  std::atomic<int> running{0};
  const auto meet = [&running] {
    ++running;
    while (running.load() < 2) std::this_thread::yield();
    return Status();
  };
  a.ref().enqueue("meet", meet);
  b.ref().enqueue("meet", meet);
  EXPECT_TRUE(a.ref().synchronize().ok());
  EXPECT_TRUE(b.ref().synchronize().ok());
}

TEST_F(StreamTest, AnEventOrdersTwoStreams) {
  Stream producer(device_, "producer"), consumer(device_, "consumer");
  for (int round = 0; round < 50; ++round) {
    int value = 0, seen = -1;
    Gate gate;
    producer.ref().enqueue("produce", [&] {
      STRATA_RETURN_IF_ERROR(gate.pass());
      value = round + 1;
      return Status();
    });
    consumer.ref().wait(producer.ref().record());
    consumer.ref().enqueue("consume", [&] {
      seen = value;
      return Status();
    });
    EXPECT_FALSE(consumer.ref().record().is_complete());
    gate.open();
    ASSERT_TRUE(consumer.ref().synchronize().ok());
    EXPECT_EQ(seen, round + 1);
  }
}

TEST_F(StreamTest, AFailurePoisonsWhatFollowsAndWhoeverWaits) {
  Stream a(device_, "a"), b(device_, "b"), untouched(device_, "c");
  std::atomic<int> ran{0};
  const auto count = [&ran] {
    ++ran;
    return Status();
  };
  a.ref().enqueue("good", count);
  const Event before = a.ref().record();
  a.ref().enqueue("bad", [] { return Status(Code::io_error, "disk on fire"); });
  a.ref().enqueue("skipped", count);
  a.ref().enqueue("skipped too", [] { return Status(Code::internal, "a later error"); });
  const Event after = a.ref().record();
  b.ref().wait(after);
  b.ref().enqueue("skipped", count);
  untouched.ref().enqueue("good", count);
  EXPECT_TRUE(before.wait().ok());
  EXPECT_EQ(after.wait().message(), "disk on fire");
  EXPECT_EQ(b.ref().synchronize().message(), "disk on fire");
  EXPECT_EQ(b.ref().synchronize().code(), Code::io_error);
  EXPECT_TRUE(untouched.ref().synchronize().ok());
  EXPECT_EQ(ran.load(), 2);
}

TEST_F(StreamTest, ExceptionsBecomeStatuses) {
  Stream status(device_, "status"), standard(device_, "standard"), other(device_, "other");
  status.ref().enqueue("throws", []() -> Status { throw StatusError(Status(Code::numerical, "NaN in loss")); });
  standard.ref().enqueue("throws", []() -> Status { throw std::runtime_error("surprise"); });
  other.ref().enqueue("throws", []() -> Status { throw 42; });
  EXPECT_EQ(status.ref().synchronize().code(), Code::numerical);
  EXPECT_EQ(standard.ref().synchronize().message(), "surprise");
  EXPECT_EQ(other.ref().synchronize().code(), Code::internal);
}

TEST_F(StreamTest, TheDestructorFinishesWhatIsQueued) {
  int ran = 0;
  {
    Stream stream(device_, "compute");
    for (int i = 0; i < 10; ++i)
      stream.ref().enqueue("op", [&ran] {
        std::this_thread::sleep_for(milliseconds(1));
        ++ran;
        return Status();
      });
  }
  EXPECT_EQ(ran, 10);
}

TEST_F(StreamTest, AnUnreadErrorIsPrintedAtTheEndAndAReadOneIsNot) {
  const auto fail = [] { return Status(Code::io_error, "disk on fire"); };
  ::testing::internal::CaptureStderr();
  {
    Stream stream(device_, "upload");
    stream.ref().enqueue("bad", fail);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "stream upload: disk on fire\n");
  ::testing::internal::CaptureStderr();
  {
    Stream stream(device_, "upload");
    stream.ref().enqueue("bad", fail);
    (void)stream.ref().record();  // recorded, but nobody looks
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "stream upload: disk on fire\n");
  ::testing::internal::CaptureStderr();
  {
    Stream stream(device_, "upload");
    stream.ref().enqueue("bad", fail);
    EXPECT_FALSE(stream.ref().synchronize().ok());
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(StreamTest, ClosuresAreReleasedBeforeTheNextOperation) {
  Stream stream(device_, "compute");
  auto owned = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = owned;
  bool gone = false;
  stream.ref().enqueue("owner", [owned] { return Status(); });
  owned.reset();
  stream.ref().enqueue("look", [&] {
    gone = watch.expired();
    return Status();
  });
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_TRUE(gone);
}

// What a closure owns may itself use the stream when it goes.
TEST_F(StreamTest, ClosuresAreReleasedOutsideTheQueuesLock) {
  Stream stream(device_, "compute");
  std::atomic<bool> last_word{false};
  std::shared_ptr<void> owned(nullptr, [&](void*) {
    stream.ref().enqueue("from a destructor", [&last_word] {
      last_word = true;
      return Status();
    });
  });
  stream.ref().enqueue("owner", [owned = std::move(owned)] { return Status(); });
  while (!last_word) std::this_thread::yield();
  EXPECT_TRUE(stream.ref().synchronize().ok());
}

TEST_F(StreamTest, CopiesAndFillsRun) {
  Stream stream(device_, "copy");
  std::vector<int> from(1000, 7), to(1000, 0);
  copy_async(from.data(), to.data(), 4000, stream);
  zero_async(from.data(), 2000, stream);
  copy_async(nullptr, nullptr, 0, stream);
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_EQ(to, std::vector<int>(1000, 7));
  EXPECT_EQ(from[499], 0);
  EXPECT_EQ(from[500], 7);
}

TEST_F(StreamTest, FillsEndWhereTheyShould) {
  Stream stream(device_, "compute");
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, kMiB - 1, kMiB, kMiB + 1, 3 * kMiB + 5}) {
    std::vector<char> bytes(n + 2, 7);
    zero_async(bytes.data() + 1, n, stream);
    ASSERT_TRUE(stream.ref().synchronize().ok());
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), static_cast<std::ptrdiff_t>(n));
    EXPECT_EQ(bytes.front(), 7);
    EXPECT_EQ(bytes.back(), 7);
  }
}

TEST_F(StreamTest, BusyTimeCountsOperationsButNotWaiting) {
  double least = 1.0;  // of several: a loaded machine may put even an empty operation to sleep, but not every time
  for (int round = 0; round < 8 && least >= 0.01; ++round) {
    Stream slow(device_, "slow"), waiting(device_, "waiting");
    waiting.ref().enqueue("start", [] { return Status(); });
    ASSERT_TRUE(waiting.ref().synchronize().ok());
    const double before = waiting.busy_seconds();
    slow.ref().enqueue("sleep", [] {
      std::this_thread::sleep_for(milliseconds(20));
      return Status();
    });
    waiting.ref().wait(slow.ref().record());
    waiting.ref().enqueue("nothing", [] { return Status(); });
    ASSERT_TRUE(waiting.ref().synchronize().ok());
    EXPECT_GE(slow.busy_seconds(), 0.019);
    least = std::min(least, waiting.busy_seconds() - before);
  }
  EXPECT_LT(least, 0.01);
}

TEST(DryStream, AcceptsEverythingAndRunsNothing) {
  Device device(Backend::dry, 8);
  EXPECT_EQ(device.pool().threads(), 1);
  EXPECT_EQ(device.threads(), 8) << "a plan is for the run's threads";
  Stream a(device, "a"), b(device, "b");
  bool ran = false;
  a.ref().enqueue("op", [&ran] {
    ran = true;
    return Status(Code::internal, "ran");
  });
  copy_async(nullptr, nullptr, std::size_t{1} << 40, a);
  b.ref().wait(a.ref().record());
  EXPECT_TRUE(a.ref().record().is_complete());
  EXPECT_TRUE(b.ref().synchronize().ok());
  EXPECT_FALSE(ran);
}

TEST(GpuDevice, IsMadeAroundItsDriver) { EXPECT_THROW(Device(Backend::cuda, 1), ContractViolation); }

}  // namespace
}  // namespace strata
