// Device memory beside an allocation cannot be touched.
#include <sys/mman.h>

#include <chrono>

#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

STRATA_KERNEL fill(float* to, std::int64_t first, std::int64_t n) {
  const std::int64_t i = block_x() * block_threads() + thread_index();
  if (i < n) to[first + i] = 1.0f;
}

TEST_F(EmulatorTest, AStoreBehindAnAllocationIsFound) {
  float* to = guarded<float>(1000);
  launch(*queue_, fill, {.x = 4}, 256, 0, to, std::int64_t{0}, std::int64_t{1000});
  expect_ok();
  launch(*queue_, fill, {.x = 4}, 256, 0, to, std::int64_t{0}, std::int64_t{1001});
  expect_finding(
      {"kernel fill, block (3, 0, 0), thread 232: touched global memory at 0x", "0 bytes behind the end of the 4000 bytes at"});
}

TEST_F(EmulatorTest, AStoreBeforeDeviceMemoryIsFound) {
  auto* to = reinterpret_cast<float*>(driver_.allocate_device(8192).value());
  launch(*queue_, fill, {.x = 1}, 32, 0, to, std::int64_t{-1}, std::int64_t{32});
  expect_finding({"thread 0: touched global memory", "4 bytes before the 8192 bytes at"});
  driver_.free_device(reinterpret_cast<std::byte*>(to));
}

STRATA_KERNEL read_packs(const float* from, float* to) {
  store_pack(to + 4 * thread_index(), load_pack(from + 4 * thread_index()));
}
TEST_F(EmulatorTest, APackThatEndsBehindAnAllocationIsFoundAlsoBeforeTheGuard) {
  float* to = guarded<float>(128);
  const auto of = [&](std::size_t floats) {
    return reinterpret_cast<const float*>(driver_.memory().allocate(4 * floats, 16).value());
  };
  run(read_packs, 32, 0, of(128), to);
  expect_ok();
  run(read_packs, 32, 0, of(127), to);
  expect_finding(
      {"kernel read_packs, block (0, 0, 0), thread 31: touches 16 bytes of global memory that end behind an allocation",
       "3 bytes behind the end of the 508 bytes"});
}
TEST_F(EmulatorTest, APackThatIsStoredBehindAnAllocationIsFound) {
  run(read_packs, 32, 0, static_cast<const float*>(guarded<float>(128)),
      reinterpret_cast<float*>(driver_.memory().allocate(4 * 126, 16).value()));
  expect_finding({"thread 31: touches 16 bytes of global memory that end behind an allocation", "the 504 bytes"});
}

STRATA_KERNEL write_half_packs(float* to) { store_pack(to + 2 * thread_index(), Pack<float, 8>{}); }
TEST_F(EmulatorTest, APackOf8BytesThatIsStoredBehindAnAllocationIsFound) {
  const auto of = [&](std::size_t floats) {
    return reinterpret_cast<float*>(driver_.memory().allocate(4 * floats, 8).value());
  };
  run(write_half_packs, 32, 0, of(64));
  expect_ok();
  run(write_half_packs, 32, 0, of(63));
  expect_finding({"thread 31: touches 8 bytes of global memory that end behind an allocation", "the 252 bytes"});
}

TEST_F(EmulatorTest, MemoryOfTheCallerIsGuardedAndNamedLikeTheDevices) {
  GuardedMemory arrays;
  EmulatedDriver::Options options;
  options.host_memory = &arrays;
  EmulatedDriver driver(no_kernels_, options);
  const auto queue = driver.make_queue("test").value();
  launch(*queue, fill, {}, 32, 0, reinterpret_cast<float*>(arrays.allocate(4 * 31, 4).value()), std::int64_t{0},
         std::int64_t{32});
  const Status status = queue->mark()->wait();
  EXPECT_NE(status.message().find("thread 31: touched global memory"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("0 bytes behind the end of the 124 bytes"), std::string::npos) << status.message();
  const auto second = driver.make_queue("test").value();
  launch(*second, read_packs, {}, 32, 0, reinterpret_cast<const float*>(arrays.allocate(4 * 127, 16).value()),
         reinterpret_cast<float*>(arrays.allocate(4 * 128, 16).value()));
  EXPECT_NE(second->mark()->wait().message().find("3 bytes behind the end of the 508 bytes"), std::string::npos);
}

STRATA_KERNEL read_one(const float* from, float* to, std::int64_t i) { to[thread_index()] = from[i]; }

TEST_F(EmulatorTest, AWildLoadIsFoundAndTheQueuesThreadLives) {
  float* to = guarded<float>(32);
  run(read_one, 32, 0, static_cast<const float*>(nullptr), to, std::int64_t{2});
  expect_finding({"thread 0: touched global memory at 0x8, far from every allocation"});
  for (int i = 0; i < 3; ++i) {
    queue_ = driver_.make_queue("another").value();
    run(read_one, 32, 0, static_cast<const float*>(to), to, std::int64_t{32});
    expect_finding({"behind the end of the 128 bytes"});
  }
}

STRATA_KERNEL copy_from_outside(const float* from, bool valid) {
  const SharedArray<float> shared = shared_array<float>(0, 128);
  copy_async(shared, 4 * thread_index(), from + 4 * thread_index(), valid);
  copy_async_commit();
  copy_async_wait<0>();
}
TEST_F(EmulatorTest, AnAsynchronousCopyReadsGlobalMemoryOnlyWhenItIsValid) {
  const auto* from = reinterpret_cast<const float*>(driver_.memory().allocate(256, 16).value());
  run(copy_from_outside, 32, 512, from, false);
  expect_ok();
  run(copy_from_outside, 32, 512, from, true);
  expect_finding({"thread 16: touched global memory", "behind the end of the 256 bytes"});
}

STRATA_DEVICE int recurse(int depth, volatile char* above) {
  volatile char frame[4096];
  frame[0] = above == nullptr ? 'a' : above[0];
  return depth == 0 ? frame[0] : recurse(depth - 1, frame) + frame[0];
}
STRATA_KERNEL overflow(float* to) { to[thread_index()] = static_cast<float>(recurse(200, nullptr)); }
TEST_F(EmulatorTest, LocalVariablesThatDoNotFitAreFound) {
  run(overflow, 32, 0, guarded<float>(32));
  expect_finding({"thread 0: its local variables do not fit the fibre's stack"});
}

using GlobalMemoryDeathTest = EmulatorTest;
TEST_F(GlobalMemoryDeathTest, HostCodeThatTouchesAGuardDies) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  float* to = guarded<float>(1);
  EXPECT_DEATH(to[1] = 1.0f, "");
}

TEST(GuardedMemory, EndsAtItsAlignmentAndKnowsItsNeighbourhood) {
  GuardedMemory memory;
  std::byte* odd = memory.allocate(10, 2).value();
  std::byte* aligned = memory.allocate(10, 256).value();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(odd + 10) % 4096, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned) % 256, 0u);
  EXPECT_EQ(memory.count(), 2u);
  EXPECT_EQ(memory.bytes(), 20u);
  EXPECT_TRUE(memory.contains(odd + 3, 7));
  EXPECT_FALSE(memory.contains(odd + 3, 8));
  EXPECT_TRUE(memory.overhangs(odd + 3, 8) && memory.overhangs(odd, 11));
  EXPECT_FALSE(memory.overhangs(odd + 3, 7) || memory.overhangs(odd + 10, 1));
  EXPECT_TRUE(memory.is_intact(odd) && memory.is_intact(aligned));
  EXPECT_NE(memory.describe(odd - 4).find("4 bytes before the 10 bytes"), std::string::npos);
  EXPECT_NE(memory.describe(aligned + 12).find("2 bytes behind the end of the 10 bytes"), std::string::npos);
  EXPECT_TRUE(memory.free(odd));
  aligned[10] = std::byte{1};
  EXPECT_FALSE(memory.is_intact(aligned));
  EXPECT_FALSE(memory.free(aligned)) << "a store into the slack is noticed";
  EXPECT_EQ(memory.count(), 0u);
}

}  // namespace
}  // namespace strata::gpu_emulated
