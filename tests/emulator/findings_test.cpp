// Planted defects in kernels, each with the message that must find it. The same kernel without its defect runs.
#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

enum class Defect { none, planted };

std::string at(int line) { return "(findings_test.cpp:" + std::to_string(line) + ")"; }

// ---- shared memory ----
constexpr int kNeighbour = __LINE__;
template <Defect kDefect>
STRATA_KERNEL neighbour(float* to) {
  const SharedArray<float> shared = shared_array<float>(0, block_threads());
  shared[thread_index()] = 1.0f;
  if (kDefect == Defect::none) sync_block();
  to[thread_index()] = shared[thread_index() % 32];
}
TEST_F(EmulatorTest, AMissingBarrierIsARace) {
  float* to = guarded<float>(64);
  run(neighbour<Defect::none>, 64, 256, to);
  expect_ok();
  run(neighbour<Defect::planted>, 64, 256, to);
  expect_finding({"kernel neighbour<", "block (0, 0, 0)", "thread 32: reads shared memory [0, 4), a race: thread 0 wrote it",
                  at(kNeighbour + 6)});
}

// The barrier between reading a value and writing the next one.
template <Defect kDefect>
STRATA_KERNEL overwrite(float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 1);
  for (int round = 0; round < 2; ++round) {
    if (thread_index() == 0) shared[0] = static_cast<float>(round);
    sync_block();
    to[thread_index()] = shared[0];
    if (kDefect == Defect::none) sync_block();
  }
}
TEST_F(EmulatorTest, WritingWhatOthersStillReadIsARace) {
  float* to = guarded<float>(64);
  run(overwrite<Defect::none>, 64, 256, to);
  expect_ok();
  run(overwrite<Defect::planted>, 64, 256, to);
  expect_finding({"thread 0: writes shared memory [0, 4), a race: several threads read it"});
}

// In one warp a shuffle brings lanes together but orders no memory; sync_warp does.
template <Defect kDefect>
STRATA_KERNEL between_lanes(float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 32);
  shared[lane_index()] = 1.0f;
  const int other = shuffle_xor(lane_index(), 1);
  if (kDefect == Defect::none) sync_warp();
  to[thread_index()] = shared[other];
}
TEST_F(EmulatorTest, AShuffleOrdersNoMemory) {
  float* to = guarded<float>(32);
  run(between_lanes<Defect::none>, 32, 128, to);
  expect_ok();
  run(between_lanes<Defect::planted>, 32, 128, to);
  expect_finding({"a race: thread"});
}

// Lanes 16 to 31 of one ldmatrix read what other lanes wrote.
constexpr int kMatrices = __LINE__;
template <Defect kDefect>
STRATA_KERNEL matrices(std::uint32_t* to) {
  const SharedArray<bf16> shared = shared_array<bf16>(0, 32 * 8);
  for (int i = 0; i < 8; ++i) shared[i * 32 + lane_index()] = bf16{};
  if (kDefect == Defect::none) sync_warp();
  std::uint32_t r[4];
  load_matrices(r, shared, lane_index() * 8);
  to[thread_index()] = r[0];
}
TEST_F(EmulatorTest, LdmatrixIsCheckedForEachLane) {
  std::uint32_t* to = guarded<std::uint32_t>(32);
  run(matrices<Defect::none>, 32, 512, to);
  expect_ok();
  run(matrices<Defect::planted>, 32, 512, to);
  expect_finding({"thread 0: reads shared memory [0, 16), a race: thread 1 wrote it", at(kMatrices + 7)});
}

constexpr int kBeyondArray = __LINE__;
template <Defect kDefect>
STRATA_KERNEL beyond_array(float* to) {
  const SharedArray<float> first = shared_array<float>(0, 32);
  const SharedArray<float> second = shared_array<float>(128, 32);
  first[thread_index()] = 0.0f;
  second[thread_index()] = 1.0f;
  sync_block();
  to[thread_index()] = first[thread_index() + (kDefect == Defect::none ? 0 : 1)];
}
TEST_F(EmulatorTest, AnIndexBehindASharedArrayIsFoundThoughAnotherArrayIsThere) {
  float* to = guarded<float>(32);
  run(beyond_array<Defect::none>, 32, 256, to);
  expect_ok();
  run(beyond_array<Defect::planted>, 32, 256, to);
  expect_finding({"thread 31: uses elements [32, 33) of a shared array of 32 at byte 0", at(kBeyondArray + 8)});
}
TEST_F(EmulatorTest, ASharedArrayBehindTheLaunchsMemoryIsFound) {
  run(beyond_array<Defect::none>, 32, 255, guarded<float>(32));
  expect_finding({"a shared array of 32 elements at byte 128 does not fit the 255 bytes of the launch"});
}

template <Defect kDefect>
STRATA_KERNEL half_written(float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 32);
  if (kDefect == Defect::none || thread_index() != 7) shared[thread_index()] = 1.0f;
  sync_block();
  to[thread_index()] = shared[thread_index() ^ 1];
}
TEST_F(EmulatorTest, ReadingWhatNothingHasWrittenIsFound) {
  float* to = guarded<float>(32);
  run(half_written<Defect::none>, 32, 128, to);  // what a launch before left in shared memory does not count
  expect_ok();
  run(half_written<Defect::planted>, 32, 128, to);
  expect_finding({"thread 6: reads shared memory [28, 32), which nothing has written yet"});
}

template <Defect kDefect>
STRATA_KERNEL fetch(const float* from, float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 128);
  copy_async(shared, 4 * thread_index(), from + 4 * thread_index(), true);
  copy_async_commit();
  if (kDefect == Defect::none) copy_async_wait<0>();
  sync_block();
  to[thread_index()] = shared[thread_index()];
}
TEST_F(EmulatorTest, AMissingWaitForAnAsynchronousCopyIsFound) {
  float* from = guarded<float>(128);
  float* to = guarded<float>(32);
  run(fetch<Defect::none>, 32, 512, from, to);
  expect_ok();
  run(fetch<Defect::planted>, 32, 512, from, to);
  expect_finding(
      {"reads shared memory [124, 128), into which an asynchronous copy of thread 7 is on its way: no copy_async_wait"});
}

// The wait is there, but lets the newest group, which is the one that is used, go on.
STRATA_KERNEL wait_for_too_few(const float* from, float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 256);
  for (int part = 0; part < 2; ++part) {
    copy_async(shared, 128 * part + 4 * thread_index(), from + 4 * thread_index(), true);
    copy_async_commit();
  }
  copy_async_wait<1>();
  sync_block();
  to[thread_index()] = shared[thread_index()] + shared[128 + thread_index()];
}
TEST_F(EmulatorTest, WaitingForTooFewGroupsIsFound) {
  run(wait_for_too_few, 32, 1024, guarded<float>(128), guarded<float>(32));
  expect_finding({"into which an asynchronous copy of thread 7"});
}

STRATA_KERNEL misaligned(float* to, int where) {
  const SharedArray<float> shared = shared_array<float>(0, 64);
  if (where == 0) store_pack(shared, 2, Pack<float>{});
  if (where == 1) store_pack(to + 1, Pack<float>{});
  if (where == 2) store_pack(shared, 64, Pack<float>{});
  if (where == 3) to[0] = shared_array<float>(2, 1)[0];
}
TEST_F(EmulatorTest, SixteenBytesAtAWrongAddressAreFound) {
  float* to = reinterpret_cast<float*>(driver_.memory().allocate(64, 16).value());
  const char* expected[] = {"16 bytes of shared memory at byte 8", "16 bytes of global memory at an address",
                            "uses elements [64, 68) of a shared array of 64", "is not aligned to 4 bytes"};
  for (int where = 0; where < 4; ++where) {
    queue_ = driver_.make_queue("another").value();
    run(misaligned, 32, 256, to, where);
    expect_finding({expected[where]});
  }
}

// ---- meetings ----
constexpr int kNotAll = __LINE__;
template <Defect kDefect>
STRATA_KERNEL not_all_at_the_barrier(float* to) {
  if (kDefect == Defect::planted && thread_index() >= 50) return;
  sync_block();
  to[thread_index()] = 1.0f;
}
TEST_F(EmulatorTest, ABarrierThatNotAllThreadsReachIsFound) {
  float* to = guarded<float>(128);
  run(not_all_at_the_barrier<Defect::none>, 128, 0, to);
  expect_ok();
  run(not_all_at_the_barrier<Defect::planted>, 128, 0, to);
  const std::string here = "at sync_block " + at(kNotAll + 4);
  expect_finding({"threads wait for others that do not come: warp 0: lanes 0-31 " + here + "; warp 1: lanes 0-17 " + here +
                  ", lanes 18-31 finished; warp 2: lanes 0-31 finished"});
}

constexpr int kDivergent = __LINE__;
template <Defect kDefect>
STRATA_KERNEL divergent_shuffle(float* to) {
  float value = 1.0f;
  if (kDefect == Defect::none || lane_index() >= 5) value += shuffle_xor(value, 1);
  sync_block();
  to[thread_index()] = value;
}
TEST_F(EmulatorTest, AShuffleThatNotAllLanesReachIsFound) {
  float* to = guarded<float>(64);
  run(divergent_shuffle<Defect::none>, 64, 0, to);
  expect_ok();
  run(divergent_shuffle<Defect::planted>, 64, 0, to);
  expect_finding(
      {"warp 0: lanes 0-4 at sync_block " + at(kDivergent + 5) + ", lanes 5-31 at shuffle_xor " + at(kDivergent + 4)});
}

constexpr int kTwoShuffles = __LINE__;
STRATA_KERNEL two_shuffles(float* to) {
  float value = 1.0f;
  if (lane_index() < 16)
    value += shuffle_xor(value, 1);
  else
    value += shuffle_xor(value, 2);
  to[thread_index()] = value;
}
TEST_F(EmulatorTest, LanesAtDifferentShufflesOfTheSourceAreFound) {
  run(two_shuffles, 32, 0, guarded<float>(32));
  expect_finding(
      {"lanes 0-15 at shuffle_xor " + at(kTwoShuffles + 4) + ", lanes 16-31 at shuffle_xor " + at(kTwoShuffles + 6)});
}

STRATA_KERNEL lane_beyond(float* to) { to[thread_index()] = shuffle(1.0f, lane_index() + 1); }
TEST_F(EmulatorTest, AShuffleFromALaneThatDoesNotExistIsFound) {
  run(lane_beyond, 32, 0, guarded<float>(32));
  expect_finding({"thread 31: shuffle asks for lane 32"});
}

// A defect that breaks no rule gives a wrong number, which the test against the reference finds.
template <int kFirstMask>
STRATA_KERNEL sum_lanes(float* to) {
  float value = static_cast<float>(lane_index());
  for (int mask = kFirstMask; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  to[thread_index()] = value;
}
TEST_F(EmulatorTest, AWrongLaneGivesAWrongSum) {
  float* to = guarded<float>(32);
  run(sum_lanes<16>, 32, 0, to);
  expect_ok();
  EXPECT_EQ(to[0], 496.0f);
  run(sum_lanes<8>, 32, 0, to);
  expect_ok();
  EXPECT_NE(to[0], 496.0f);
}

STRATA_KERNEL nothing() {}
TEST_F(EmulatorTest, LaunchesThatAGpuRefusesAreRefused) {
  const auto refused = [&](Grid grid, int threads, std::size_t shared_bytes, const char* why) {
    queue_ = driver_.make_queue("refusing").value();
    launch(*queue_, nothing, grid, threads, shared_bytes);
    expect_finding({"queue refusing: kernel nothing was refused", why});
  };
  refused({}, 33, 0, "33 threads a block; wanted is a multiple of 32");
  refused({}, 1056, 0, "at most 1024");
  refused({.x = 1, .y = 65536}, 32, 0, "a grid of (1, 65536, 1)");
  refused({}, 32, 227 * 1024 + 1, "bytes of shared memory");
}

// After a finding the queue runs no more kernels, and another queue does.
TEST_F(EmulatorTest, AFindingEndsTheKernelAndStays) {
  float* to = guarded<float>(64);
  run(neighbour<Defect::planted>, 64, 256, to);
  const Status first = finish();
  run(sum_lanes<16>, 32, 0, to);
  EXPECT_EQ(finish().message(), first.message());
  EXPECT_NE(to[0], 496.0f);
  queue_ = driver_.make_queue("another").value();
  run(sum_lanes<16>, 32, 0, to);
  expect_ok();
  EXPECT_EQ(to[0], 496.0f);
}

}  // namespace
}  // namespace strata::gpu_emulated
