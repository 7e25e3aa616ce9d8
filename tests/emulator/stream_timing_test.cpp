// What streams that a GPU serves say of their time, and what profilers and traces see of their operations.
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "runtime/stream.h"
#include "tests/emulator/emulated_driver.h"

namespace strata::gpu_emulated {
namespace {

using std::chrono::milliseconds;

// A stream whose GPU works by sleeping.
class StreamTiming : public ::testing::Test {
 protected:
  StreamTiming() : device_(make_emulated_driver(), 1), gpu_(device_, "compute"), host_(device_, "host", StreamKind::host) {}

  // What an operation itself saw of its time, however late a busy machine let it begin or end.
  struct Seen {
    TraceClock::time_point begin, end;
    double seconds() const { return std::chrono::duration<double>(end - begin).count(); }
  };

  const Seen* work(const char* name, int ms) {
    const GpuOperation operation(gpu_, name);
    Seen* seen = &seen_.emplace_back();
    static_cast<EmulatedQueue&>(operation.queue()).enqueue([ms, seen] { return sleep(ms, seen); });
    return seen;
  }
  const Seen* host_work(const char* name, int ms) {
    Seen* seen = &seen_.emplace_back();
    host_.ref().enqueue(name, [ms, seen] { return sleep(ms, seen); });
    return seen;
  }
  Counts::Values counts() { return static_cast<EmulatedDriver&>(device_.gpu()).counts(); }

  static Status sleep(int ms, Seen* seen) {
    seen->begin = TraceClock::now();
    std::this_thread::sleep_for(milliseconds(ms));
    seen->end = TraceClock::now();
    return {};
  }

  std::deque<Seen> seen_;
  Device device_;
  Stream gpu_;
  Stream host_;
};

TEST_F(StreamTiming, BusyTimeIsThatOfOperationsNotOfWaits) {
  EXPECT_EQ(gpu_.busy_seconds(), 0.0);
  const auto begin = TraceClock::now();
  const Seen* slow = host_work("slow", 120);
  const Seen* first = work("first", 20);
  gpu_.ref().wait(host_.ref().record());
  const Seen* second = work("second", 20);
  ASSERT_TRUE(gpu_.ref().synchronize().ok());
  const double elapsed = std::chrono::duration<double>(TraceClock::now() - begin).count();
  const double waited = std::chrono::duration<double>(slow->end - first->end).count();
  EXPECT_GE(gpu_.busy_seconds(), 0.999 * (first->seconds() + second->seconds()));
  EXPECT_LT(gpu_.busy_seconds(), elapsed - waited / 2) << "the wait was counted";
}

TEST_F(StreamTiming, WithoutATraceABurstCostsTwoTimestamps) {
  for (int i = 0; i < 50; ++i) work("small", 0);
  ASSERT_TRUE(gpu_.ref().synchronize().ok());
  EXPECT_EQ(counts().timestamps, 2);
}

TEST_F(StreamTiming, ManySpansThatNobodyAsksForAreGivenUp) {
  for (int i = 0; i < 300; ++i) {
    work("small", 0);
    ASSERT_TRUE(gpu_.ref().record().wait().ok());
  }
  const double before = device_.trace().busy_seconds(device_.trace().lane("compute"));
  EXPECT_GT(before, 0.0) << "kept until somebody asks";
  EXPECT_GE(gpu_.busy_seconds(), before);
}

TEST_F(StreamTiming, EveryOperationIsARangeOfItsName) {
  work("a", 0);
  work("b", 0);
  work("b", 0);
  ASSERT_TRUE(gpu_.ref().synchronize().ok());
  EXPECT_EQ(counts().ranges, (std::map<std::string, std::int64_t>{{"a", 1}, {"b", 2}}));
  EXPECT_EQ(counts().open_ranges, 0);
}

TEST_F(StreamTiming, ATraceShowsOperationsOfBothProcessorsOnOneClock) {
  work("before the trace", 5);
  ASSERT_TRUE(gpu_.ref().synchronize().ok());
  device_.trace().start();
  std::vector<const Seen*> seen = {host_work("host first", 30)};
  gpu_.ref().wait(host_.ref().record());
  seen.push_back(work("gpu second", 20));
  seen.push_back(work("gpu third", 10));
  host_.ref().wait(gpu_.ref().record());
  seen.push_back(host_work("host fourth", 5));
  ASSERT_TRUE(host_.ref().synchronize().ok());
  ASSERT_TRUE(gpu_.ref().synchronize().ok());
  device_.trace().stop();
  const std::string path = ::testing::TempDir() + "strata_stream_timing.json";
  ASSERT_TRUE(device_.trace().write_json(path, "rank 0", 0).ok());
  struct Span {
    std::string name;
    double begin, end;
  };
  std::vector<Span> spans;
  const auto trace = nlohmann::json::parse(std::ifstream(path));
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "X")
      spans.push_back({event["name"], event["ts"].get<double>(), event["ts"].get<double>() + event["dur"].get<double>()});
  std::remove(path.c_str());
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  ASSERT_EQ(spans.size(), 4u);
  const std::vector<std::string> order = {"host first", "gpu second", "gpu third", "host fourth"};
  for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(spans[i].name, order[i]);
  // Microseconds. The file counts from a time of its own: the first operation, which the host timed, gives the place.
  const auto place = [&](TraceClock::time_point time) {
    return spans[0].begin + std::chrono::duration<double, std::micro>(time - seen[0]->begin).count();
  };
  constexpr double kSlack = 4000;
  for (std::size_t i = 1; i < spans.size(); ++i) {
    EXPECT_LE(spans[i].begin, place(seen[i]->begin) + kSlack) << spans[i].name;
    EXPECT_GE(spans[i].end, place(seen[i]->end) - kSlack) << spans[i].name;
    EXPECT_GE(spans[i].begin, place(seen[i - 1]->end) - kSlack) << spans[i].name;
    if (i + 1 == spans.size()) break;
    EXPECT_LE(spans[i].end, place(seen[i + 1]->begin) + kSlack) << spans[i].name;
  }
}

}  // namespace
}  // namespace strata::gpu_emulated
