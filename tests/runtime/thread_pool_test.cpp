#include "runtime/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "runtime/status.h"

namespace strata {
namespace {

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      pool.parallel_for(tasks, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& count : runs) ASSERT_EQ(count.load(), 1) << threads << " threads, " << tasks << " tasks";
    }
  }
}

TEST(ThreadPool, ReturnsOnlyWhenAllIsWrittenManyTimes) {
  ThreadPool pool(3);
  std::vector<int> data(64, 0);
  for (int round = 1; round <= 2000; ++round) {
    pool.parallel_for(64, [&](std::int64_t i) { data[static_cast<std::size_t>(i)] = round; });
    for (const int value : data) ASSERT_EQ(value, round);
  }
}

TEST(ThreadPool, OneThreadRunsOnTheCallerInOrder) {
  ThreadPool pool(1);
  std::vector<std::int64_t> order;
  const std::thread::id caller = std::this_thread::get_id();
  pool.parallel_for(5, [&](std::int64_t i) {
    order.push_back(i);
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
}

TEST(ThreadPool, TasksThatWaitForEachOtherRunAtOnce) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> arrived{0};
    pool.parallel_for(3, [&](std::int64_t) {
      ++arrived;
      while (arrived.load() < 3) std::this_thread::yield();
    });
    EXPECT_EQ(arrived.load(), 3);
    if (round % 5 == 4) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // wakes sleeping workers too
  }
}

TEST(ThreadPool, CallersFromSeveralThreadsTakeTurns) {
  ThreadPool pool(2);
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) pool.parallel_for(10, [&](std::int64_t i) { sum += i; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum.load(), 4 * 100 * 45);
}

TEST(ThreadPool, IdleThreadsSleep) {
  ThreadPool pool(3);
  pool.parallel_for(16, [](std::int64_t) {});
  double least = 1.0;  // of several: falling asleep may take a loaded machine a while
  for (int round = 0; round < 8 && least >= 0.005; ++round) {
    const std::clock_t before = std::clock();  // processor time of all threads of this process
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    least = std::min(least, static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC);
  }
  EXPECT_LT(least, 0.005) << "seconds of processor time while idle";
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kLimitsAddresses = false;  // a sanitizer's own memory would not fit
#else
constexpr bool kLimitsAddresses = true;
#endif

// In a process of its own, which may have room for some stacks but not for all.
void start_too_many_threads() {
  std::ifstream statm("/proc/self/statm");
  std::size_t pages = 0;
  statm >> pages;
  const rlim_t limit = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + (std::size_t{256} << 20);
  const rlimit room = {limit, limit};
  if (::setrlimit(RLIMIT_AS, &room) != 0) std::_Exit(1);
  ::alarm(60);  // a constructor that hangs fails too
  try {
    const ThreadPool pool(100'000);
  } catch (const StatusError& error) {
    std::fprintf(stderr, "%s: %s\n", to_string(error.status().code()), error.what());
    std::_Exit(3);
  }
  std::_Exit(2);
}

TEST(ThreadPoolDeathTest, AThreadThatCannotBeStartedIsAnErrorThatSaysWhichAndWhatToDo) {
  if (!kLimitsAddresses) GTEST_SKIP() << "address space cannot be limited under a sanitizer";
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(start_too_many_threads(), ::testing::ExitedWithCode(3),
              "out of budget: cannot start compute thread [0-9]+ of 100000: .*; lower device.threads");
}

TEST(ThreadPool, NeedsAThread) { EXPECT_THROW(ThreadPool(0), ContractViolation); }

}  // namespace
}  // namespace strata
