// The CUDA body of driver.h when CUDA fails: every call once, the device for good, a driver that lacks something. What it
// promises when all is well is in tests/runtime/gpu_driver_test.cpp, which runs over the fake runtime too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/gpu/cuda.h"

#ifdef STRATA_FAKE_CUDA  // where the CUDA backend is built

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <fstream>
#include <thread>

#include "runtime/kernels/gemm.h"
#include "tests/fake_cuda/fake_cuda.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::size_t kBytes = 4096;

// Of this process.
std::size_t mapped_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * 4096;
}

class FakeCudaTest : public ::testing::Test {
 protected:
  FakeCudaTest() { fake_cuda::reset(); }
  ~FakeCudaTest() override {
    EXPECT_EQ(fake_cuda::living(), "") << "something leaks";
    EXPECT_THAT(fake_cuda::misuse(), IsEmpty());
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "an error is left for the next call to find";
  }
};

// A driver in use. Gives everything back when it goes; keeps the first error that it was told.
class Use {
 public:
  explicit Use(int ordinal) {
    Result<std::unique_ptr<GpuDriver>> made = make_cuda_driver({.ordinal = ordinal});
    if (!note(made)) return;
    driver_ = std::move(made).value();
    if (note(driver_->readings().status(), Code::unsupported)) work();
  }
  ~Use() {
    if (counter_) counter_->set(100);
    queues_.clear();
    counter_.reset();
    if (driver_ == nullptr) return;
    for (std::byte* const data : device_) driver_->free_device(data);
    for (std::byte* const data : pinned_) driver_->free_pinned(data, kBytes);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  const Status& status() const { return status_; }
  GpuDriver& driver() { return *driver_; }
  GpuQueue& queue(std::size_t i) { return *queues_[i]; }
  GpuCounter& counter() { return *counter_; }
  std::byte* pinned() { return pinned_[0]; }
  std::byte* device() { return device_[0]; }

 private:
  bool note(const Status& status, Code accepted = Code::ok) {
    if (status.ok() || status.code() == accepted) return true;
    if (status_.ok()) status_ = status;
    return false;
  }
  template <class T>
  bool note(const Result<T>& result) {
    return note(result.status());
  }
  void work() {
    for (int i = 0; i < 2; ++i) {
      const Result<std::byte*> device = driver_->allocate_device(kBytes);
      if (!note(device)) return;
      device_.push_back(*device);
      const Result<std::byte*> pinned = driver_->allocate_pinned(kBytes);
      if (!note(pinned)) return;
      pinned_.push_back(*pinned);
      Result<std::unique_ptr<GpuQueue>> queue = driver_->make_queue(i == 0 ? "first" : "second");
      if (!note(queue)) return;
      queues_.push_back(std::move(queue).value());
    }
    Result<std::shared_ptr<GpuCounter>> counter = driver_->make_counter();
    if (!note(counter)) return;
    counter_ = std::move(counter).value();
    for (std::uint32_t turn = 1; turn <= 2; ++turn) {
      GpuQueue &first = queue(0), &second = queue(1);
      first.wait(*counter_, turn);
      const auto begin = first.timestamp();
      first.copy(pinned_[0], device_[0], kBytes);
      first.zero(device_[1], kBytes);
      second.wait(*first.mark());
      second.copy(device_[0], pinned_[1], kBytes);
      driver_->gemm({.shape = {.m = 2, .n = 2, .k = 2}, .pointers = {.a = device_[1], .b = device_[1], .c = device_[0]}},
                    second);
      const auto end = second.timestamp();
      counter_->set(turn);
      note(first.mark()->wait());
      note(second.mark()->wait());
    }
  }

  Status status_;
  std::unique_ptr<GpuDriver> driver_;
  std::vector<std::byte*> device_, pinned_;
  std::vector<std::unique_ptr<GpuQueue>> queues_;
  std::shared_ptr<GpuCounter> counter_;
};

// All that was said about a use, aloud or in a Status.
std::string report_of_use(int ordinal = 0) {
  ::testing::internal::CaptureStderr();
  std::string told;
  {
    const Use use(ordinal);
    told = use.status().message();
  }
  return told + "\n" + ::testing::internal::GetCapturedStderr();
}

TEST_F(FakeCudaTest, NothingIsSaidAndNothingLeftWhenAllIsWell) {
  EXPECT_EQ(report_of_use(), "\n");
  EXPECT_EQ(fake_cuda::pageable_bytes(), 0u);
}

TEST_F(FakeCudaTest, EveryCallThatFailsIsNamedWithItsGpuAndNothingLeaks) {
  fake_cuda::reset({.devices = 2});
  EXPECT_EQ(report_of_use(1), "\n");
  std::map<std::string, int> calls = fake_cuda::calls();
  EXPECT_GE(calls.size(), 20u);
  calls.erase("cudaLaunchHostFunc");  // cuBLASLt's, which says so in its own words
  for (const auto& [function, count] : calls)
    for (int nth = 1; nth <= count; ++nth) {
      SCOPED_TRACE(function + ", call " + std::to_string(nth));
      fake_cuda::reset({.devices = 2});
      fake_cuda::fail(function, function.starts_with("cuda") ? int{cudaErrorLaunchFailure} : int{CUDA_ERROR_INVALID_HANDLE},
                      nth);
      const std::string report = report_of_use(1);
      EXPECT_THAT(report, HasSubstr(function));
      EXPECT_THAT(report, HasSubstr(function == "cudaGetDeviceCount" ? "GPU" : "GPU 1"));
      EXPECT_THAT(report, HasSubstr("; ")) << "what to do";
      EXPECT_EQ(fake_cuda::living(), "");
      EXPECT_THAT(fake_cuda::misuse(), IsEmpty());
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    }
  // Of what only asks, wait() tells.
  for (const char* function : {"cudaEventQuery", "cudaEventElapsedTime"}) EXPECT_FALSE(calls.contains(function));
}

TEST_F(FakeCudaTest, AnErrorOfAQueueNamesTheQueue) {
  Use use(0);
  ASSERT_TRUE(use.status().ok()) << use.status().message();
  fake_cuda::fail("cudaMemsetAsync", cudaErrorInvalidValue);
  use.queue(1).zero(use.device(), 16);
  use.queue(1).zero(use.device(), 16);
  const Status status = use.queue(1).mark()->wait();
  EXPECT_EQ(status.code(), Code::internal);
  EXPECT_THAT(status.message(), HasSubstr("stream second: cudaMemsetAsync on GPU 0: invalid argument"));
  EXPECT_TRUE(use.queue(0).mark()->wait().ok());
}

TEST_F(FakeCudaTest, ALostDeviceIsToldByEverythingAndStopsNobody) {
  ::testing::internal::CaptureStderr();
  {
    Use use(0);
    ASSERT_TRUE(use.status().ok()) << use.status().message();
    use.queue(0).wait(use.counter(), 9);
    const auto before = use.queue(0).mark();
    const auto begin = use.queue(0).timestamp();
    fake_cuda::lose_device(cudaErrorIllegalAddress);
    use.counter().set(9);
    for (const Status& status : {before->wait(), use.queue(0).mark()->wait(), use.queue(1).mark()->wait()}) {
      EXPECT_EQ(status.code(), Code::internal);
      EXPECT_THAT(status.message(), HasSubstr("GPU 0: an illegal memory access was encountered; a kernel before it"));
    }
    EXPECT_TRUE(before->is_complete());
    EXPECT_EQ(use.queue(0).timestamp()->seconds_since(*begin), 0.0);
    EXPECT_THAT(use.driver().allocate_device(1).status().message(), HasSubstr("an illegal memory access"));
    EXPECT_FALSE(use.driver().allocate_pinned(1).ok());
    EXPECT_FALSE(use.driver().make_queue("late").ok());
    EXPECT_FALSE(use.driver().make_counter().ok());
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  for (const char* call :
       {"cudaStreamSynchronize", "cudaStreamDestroy", "cudaEventDestroy", "cudaFreeHost", "cudaFree", "cudaHostUnregister"})
    EXPECT_THAT(said, HasSubstr(call + std::string(" on GPU 0: an illegal memory access")));
}

TEST_F(FakeCudaTest, ADriverMakesAContextOnItsOwnGpuAloneWhateverThreadCalls) {
  fake_cuda::reset({.devices = 2});
  {
    std::unique_ptr<Use> use;
    std::shared_ptr<GpuMark> mark;
    std::shared_ptr<GpuTimestamp> time;
    const auto in_a_new_thread = [](const auto& body) { std::thread(body).join(); };
    in_a_new_thread([&] { use = std::make_unique<Use>(1); });
    ASSERT_TRUE(use->status().ok()) << use->status().message();
    in_a_new_thread([&] { mark = use->queue(0).mark(); });
    in_a_new_thread([&] { time = use->queue(0).timestamp(); });
    in_a_new_thread([&] { EXPECT_TRUE(mark->wait().ok()); });
    in_a_new_thread([&] { EXPECT_TRUE(mark->is_complete()); });
    in_a_new_thread([&] { (void)time->is_complete(); });
    in_a_new_thread([&] { (void)time->seconds_since(*time); });
    in_a_new_thread([&] { use->queue(1).wait(*mark); });
    in_a_new_thread([&] { use->queue(1).wait(use->counter(), 1); });
    in_a_new_thread([&] { use->queue(1).copy(use->pinned(), use->device(), 16); });
    in_a_new_thread([&] { use->queue(1).zero(use->device(), 16); });
    in_a_new_thread([&] { EXPECT_TRUE(use->driver().make_counter().ok()); });
    in_a_new_thread([&] { EXPECT_TRUE(use->driver().make_queue("third").ok()); });
    in_a_new_thread([&] { use->driver().free_device(use->driver().allocate_device(16).value()); });
    in_a_new_thread([&] { use->driver().free_pinned(use->driver().allocate_pinned(16).value(), 16); });
    in_a_new_thread([&] {
      use->driver().gemm(
          {.shape = {.m = 1, .n = 1, .k = 1}, .pointers = {.a = use->device(), .b = use->device(), .c = use->device() + 16}},
          use->queue(1));
    });
    in_a_new_thread([&] { use.reset(); });
    in_a_new_thread([&] { mark.reset(); });
    in_a_new_thread([&] { time.reset(); });
  }
  EXPECT_THAT(fake_cuda::contexts(), ElementsAre(1));
}

TEST_F(FakeCudaTest, AskingWhetherAQueueHasComeSoFarLeavesNoErrorBehind) {
  Use use(0);
  ASSERT_TRUE(use.status().ok()) << use.status().message();
  use.queue(0).wait(use.counter(), 9);
  const auto mark = use.queue(0).mark();
  const auto time = use.queue(0).timestamp();
  EXPECT_FALSE(mark->is_complete() || time->is_complete());
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  fake_cuda::fail("cudaEventQuery", cudaErrorLaunchFailure);
  EXPECT_TRUE(mark->is_complete()) << "whoever asks goes on to wait(), which tells";
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  use.counter().set(9);
}

TEST_F(FakeCudaTest, ATimestampThatWasNotTakenTellsNoTime) {
  Use use(0);
  ASSERT_TRUE(use.status().ok()) << use.status().message();
  const auto begin = use.queue(0).timestamp();
  fake_cuda::fail("cudaEventRecord", cudaErrorLaunchFailure);
  const auto end = use.queue(0).timestamp();  // of an event that was another timestamp's before
  ASSERT_FALSE(use.queue(0).mark()->wait().ok());
  EXPECT_TRUE(end->is_complete());
  EXPECT_EQ(end->seconds_since(*begin), 0.0);
  EXPECT_EQ(begin->seconds_since(*end), 0.0);
}

TEST_F(FakeCudaTest, EventsAreUsedAgain) {
  Use use(0);
  ASSERT_TRUE(use.status().ok()) << use.status().message();
  const int before = fake_cuda::calls()["cudaEventCreateWithFlags"];
  for (int i = 0; i < 1000; ++i) {
    (void)use.queue(0).timestamp();
    EXPECT_TRUE(use.queue(i % 2).mark()->wait().ok());
  }
  EXPECT_EQ(fake_cuda::calls()["cudaEventCreateWithFlags"], before) << "making one takes as long as a launch";
}

TEST_F(FakeCudaTest, QueuesMayGoBeforeTheirMarksAndTheDriverToo) {
  std::shared_ptr<GpuMark> mark;
  std::shared_ptr<GpuTimestamp> time;
  {
    auto driver = make_cuda_driver({}).value();
    auto queue = driver->make_queue("short").value();
    time = queue->timestamp();
    mark = queue->mark();
  }
  EXPECT_TRUE(mark->wait().ok());
  EXPECT_TRUE(time->is_complete());
  mark.reset();
  time.reset();
}

TEST_F(FakeCudaTest, PageableMemoryIsCopiedInOrderToo) {
  Use use(0);
  ASSERT_TRUE(use.status().ok()) << use.status().message();
  std::vector<char> from(64, 'a'), to(64, 'b');
  use.queue(0).copy(from.data(), use.device(), 64);
  use.queue(0).copy(use.device(), to.data(), 64);
  EXPECT_TRUE(use.queue(0).mark()->wait().ok());
  EXPECT_EQ(from, to);
  EXPECT_EQ(fake_cuda::pageable_bytes(), 128u);
}

TEST_F(FakeCudaTest, WhatIsNoGpuForUsIsRefusedWithTheReason) {
  const auto refusal = [](const fake_cuda::Options& options, const CudaOptions& wanted = {}) {
    fake_cuda::reset(options);
    return make_cuda_driver(wanted).status();
  };
  EXPECT_EQ(refusal({.devices = 0}).code(), Code::unsupported);
  EXPECT_THAT(refusal({.devices = 0}).message(), HasSubstr("shows no GPU"));
  EXPECT_EQ(refusal({.devices = 2}, {.ordinal = 2}).code(), Code::invalid_argument);
  EXPECT_THAT(refusal({.devices = 2}, {.ordinal = 2}).message(), HasSubstr("no GPU 2: this process sees 2"));
  EXPECT_FALSE(refusal({}, {.ordinal = -1}).ok());
  const Status old = refusal({.name = "Tesla V100", .compute_major = 7});
  EXPECT_EQ(old.code(), Code::unsupported);
  EXPECT_THAT(old.message(), HasSubstr("Tesla V100) has compute capability 7.0; 8.0"));

  fake_cuda::reset();
  fake_cuda::fail("cudaGetDeviceCount", cudaErrorInsufficientDriver);
  const Status no_driver = cuda_device_count().status();
  EXPECT_EQ(no_driver.code(), Code::unsupported);
  EXPECT_THAT(no_driver.message(), HasSubstr("no NVIDIA driver"));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(FakeCudaTest, ADriverThatCannotWaitForTheHostIsRefused) {
  fake_cuda::reset({.has_stream_wait_value = false});
  {
    const auto driver = make_cuda_driver({}).value();
    const Status status = driver->make_queue("any").status();
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_THAT(status.message(), HasSubstr("cuStreamWaitValue32"));
    EXPECT_THAT(status.message(), HasSubstr("install a newer driver"));
  }
  fake_cuda::reset({.waits_for_host_memory = false});
  const auto driver = make_cuda_driver({}).value();
  const auto queue = driver->make_queue("any").value();
  const auto counter = driver->make_counter().value();
  queue->wait(*counter, 1);
  const Status status = queue->mark()->wait();
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_THAT(status.message(), HasSubstr("stream any: cuStreamWaitValue32 on GPU 0: the device does not support it"));
}

TEST_F(FakeCudaTest, OutOfMemorySaysHowMuchAndWhatToLower) {
  fake_cuda::reset({.memory_bytes = std::size_t{1} << 20});
  const auto driver = make_cuda_driver({}).value();
  const Status status = driver->allocate_device(std::size_t{2} << 20).status();
  EXPECT_EQ(status.code(), Code::out_of_budget);
  EXPECT_THAT(status.message(), HasSubstr("2097152 bytes: cudaMalloc on GPU 0: out of memory; lower memory.gpu"));
  fake_cuda::fail("cudaHostRegister", cudaErrorMemoryAllocation);
  const Status locked = driver->allocate_pinned(8192).status();
  EXPECT_EQ(locked.code(), Code::out_of_budget);
  EXPECT_THAT(locked.message(), HasSubstr("ulimit -l"));
  const std::size_t before = mapped_bytes();
  fake_cuda::fail("cudaHostRegister", cudaErrorMemoryAllocation);
  EXPECT_FALSE(driver->allocate_pinned(std::size_t{1} << 30).ok());
  EXPECT_LT(mapped_bytes(), before + (std::size_t{1} << 29)) << "what could not be locked is still mapped";
  // All of it, page by page, and all of it back.
  std::vector<std::byte*> all;
  while (true) {
    const Result<std::byte*> more = driver->allocate_device(100000);
    if (!more.ok()) break;
    all.push_back(*more);
  }
  EXPECT_GE(all.size(), 8u);
  for (std::byte* const data : all) driver->free_device(data);
}

}  // namespace
}  // namespace strata

#else

TEST(FakeCuda, NeedsTheCudaBackend) { GTEST_SKIP() << "this build has no CUDA backend"; }

#endif
