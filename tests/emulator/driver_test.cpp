// Queues, marks, counters, memory and errors of the emulated driver: what driver.h promises.
#include <atomic>
#include <chrono>
#include <thread>

#include "runtime/kernels/gemm.h"
#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

STRATA_KERNEL add_one(std::int32_t* x) { x[thread_index()] += 1; }

TEST_F(EmulatorTest, AQueueRunsInOrder) {
  auto* x = guarded<std::int32_t>(32);
  std::int32_t result[32] = {};
  queue_->zero(x, 128);
  for (int i = 0; i < 100; ++i) run(add_one, 32, 0, x);
  queue_->copy(x, result, 128);
  queue_->zero(x, 128);
  expect_ok();
  for (const std::int32_t value : result) EXPECT_EQ(value, 100);
  EXPECT_EQ(x[0], 0);
}

TEST_F(EmulatorTest, AQueueWaitsForACounterAndAnotherForItsMark) {
  const auto counter = driver_.make_counter().value();
  const auto second = driver_.make_queue("second").value();
  auto* x = guarded<std::int32_t>(32);
  queue_->zero(x, 128);
  queue_->wait(*counter, 2);
  run(add_one, 32, 0, x);
  {
    const auto mark = queue_->mark();
    second->wait(*mark);
  }
  std::int32_t result[32] = {};
  second->copy(x, result, 128);
  const auto done = second->mark();
  counter->set(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(done->is_complete());
  counter->set(2);
  EXPECT_TRUE(done->wait().ok());
  EXPECT_TRUE(done->is_complete());
  EXPECT_EQ(result[31], 1);
}

TEST_F(EmulatorTest, CountersWrap) {
  const auto counter = driver_.make_counter().value();
  counter->set(0xffffffffu);
  queue_->wait(*counter, 0xfffffff0u);
  expect_ok();
  queue_->wait(*counter, 1);
  const auto mark = queue_->mark();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(mark->is_complete());
  counter->set(1);
  EXPECT_TRUE(mark->wait().ok());
}

TEST_F(EmulatorTest, MarksOutliveTheirQueueWhichFinishesWhatItHas) {
  const auto counter = driver_.make_counter().value();
  auto* x = guarded<std::int32_t>(32);
  queue_->zero(x, 128);
  queue_->wait(*counter, 1);
  run(add_one, 32, 0, x);
  const auto mark = queue_->mark();
  std::thread opener([&] { counter->set(1); });
  queue_.reset();
  opener.join();
  EXPECT_TRUE(mark->is_complete());
  EXPECT_TRUE(mark->wait().ok());
  EXPECT_EQ(x[0], 1);
}

TEST_F(EmulatorTest, AFailureStaysAndStopsWhatFollows) {
  auto* x = guarded<std::int32_t>(32);
  queue_->zero(x, 128);
  const auto before = queue_->mark();
  expect_ok();
  queue_->fail({Code::internal, "first"});
  queue_->fail({Code::internal, "second"});
  run(add_one, 32, 0, x);
  EXPECT_EQ(finish().message(), "first");
  EXPECT_EQ(x[0], 0);
  EXPECT_TRUE(before->wait().ok());
}

STRATA_KERNEL report(GpuFault* fault, GpuFaultKind kind) {
  report_fault(fault, kind, 100 + block_x() * 32 + thread_index(), -7 - thread_index(), 50);
}
TEST_F(EmulatorTest, TheFirstReportedFaultIsTheStatus) {
  EXPECT_EQ(queue_->fault()->kind, 0u);
  launch(*queue_, report, {.x = 2}, 32, 0, queue_->fault(), GpuFaultKind::token_outside_vocabulary);
  const Status status = finish();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(),
            "token -7 of row 100 is outside the vocabulary [0, 50); was the data made with another tokenizer?");
}
TEST_F(EmulatorTest, AFaultOfTargetsNamesWhatIsIgnored) {
  run(report, 32, 0, queue_->fault(), GpuFaultKind::target_outside_vocabulary);
  EXPECT_EQ(finish().message(), "target -7 of row 100 is outside the vocabulary [0, 50) and is not -100 (ignored)");
  EXPECT_TRUE(to_status({}).ok());
}

TEST_F(EmulatorTest, CountsWhatHappens) {
  std::byte* device = driver_.allocate_device(128).value();
  std::byte* pinned = driver_.allocate_pinned(128).value();
  std::byte pageable[128] = {};
  queue_->zero(device, 128);
  run(add_one, 32, 0, reinterpret_cast<std::int32_t*>(device));
  run(add_one, 32, 0, reinterpret_cast<std::int32_t*>(device));
  queue_->copy(device, pinned, 128);
  EXPECT_EQ(driver_.counts().pageable_copies, 0);
  queue_->copy(device, pageable, 100);
  expect_ok();
  const Counts::Values counts = driver_.counts();
  EXPECT_EQ(counts.kernels, (std::map<std::string, std::int64_t>{{"add_one", 2}}));
  EXPECT_EQ(counts.copied_bytes, 228);
  EXPECT_EQ(counts.pageable_copies, 1);
  EXPECT_EQ(counts.allocations, 2);
  EXPECT_EQ(driver_.live_allocations(), 2u);
  driver_.free_device(device);
  driver_.free_pinned(pinned, 128);
  EXPECT_EQ(driver_.live_allocations(), 0u);
}

TEST_F(EmulatorTest, DeviceMemoryIsAlignedFullOfNaNsAndLimited) {
  EmulatedDriver small(no_kernels_, {.memory_bytes = 10000});
  std::byte* data = small.allocate_device(5000).value();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 4096, 0u);
  float value = 0.0f;
  std::memcpy(&value, data + 4996, 4);
  EXPECT_NE(value, value);
  const auto refused = small.allocate_device(5001);
  EXPECT_EQ(refused.status().code(), Code::out_of_budget);
  small.free_device(data);
  EXPECT_TRUE(small.allocate_device(10000).ok());
}

TEST_F(EmulatorTest, AProductIsComputedInTheQueuesOrder) {
  float* a = guarded<float>(2 * 3);
  float* b = guarded<float>(3 * 4);
  float* c = guarded<float>(2 * 4);
  float from[12];
  for (int i = 0; i < 12; ++i) from[i] = static_cast<float>(i);
  queue_->copy(from, a, 24);
  queue_->copy(from, b, 48);
  driver_.gemm({.shape = {.m = 2, .n = 4, .k = 3}, .pointers = {.a = a, .b = b, .c = c}}, *queue_);
  expect_ok();
  for (int i = 0; i < 8; ++i) {
    float sum = 0.0f;
    for (int k = 0; k < 3; ++k) sum += from[i / 4 * 3 + k] * from[k * 4 + i % 4];
    EXPECT_EQ(c[i], sum);
  }
}

}  // namespace
}  // namespace strata::gpu_emulated
