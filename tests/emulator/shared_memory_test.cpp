// Shared memory: what is allowed, and asynchronous copies.
#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

// Two bf16 of a word by two threads, a word of doubles over the place of floats, 16 bytes at once.
STRATA_KERNEL mixed_types(const float* from, float* to) {
  const SharedArray<bf16> halves = shared_array<bf16>(16, 64);
  const SharedArray<double> doubles = shared_array<double>(16 + 128, 32);
  const SharedArray<float> floats = shared_array<float>(16 + 128, 64);
  const int i = thread_index();
  halves[i] = to_bf16(from[i]);
  if (i < 32) doubles[i] = static_cast<double>(from[i]);
  sync_block();
  float sum = to_float(halves[63 - i]);
  if (i < 32) sum += static_cast<float>(doubles[31 - i]);
  const Pack<bf16> pack = load_pack(halves, 8 * (i % 8));
  sum += to_float(pack[3]);
  sync_block();
  floats[i] = sum;
  floats[i] += 0.5f;
  sync_block();
  to[i] = floats[i ^ 1] * 2.0f;
}

TEST_F(EmulatorTest, SharedMemoryHoldsAnyTypeAtAnyPlace) {
  float* from = guarded<float>(64);
  float* to = guarded<float>(64);
  for (int i = 0; i < 64; ++i) from[i] = static_cast<float>(i);
  run(mixed_types, 64, 16 + 128 + 256, from, to);
  expect_ok();
  for (int k = 0; k < 64; ++k) {
    const int i = k ^ 1;
    ASSERT_EQ(to[k], 2.0f * (static_cast<float>(63 - i + (i < 32 ? 31 - i : 0) + 8 * (i % 8) + 3) + 0.5f)) << k;
  }
}

// Lanes of a warp may share with sync_warp between.
STRATA_KERNEL within_warps(float* to) {
  const SharedArray<float> shared = shared_array<float>(0, 64);
  const int i = thread_index();
  for (int round = 0; round < 3; ++round) {
    shared[i] = static_cast<float>(i + round);
    sync_warp();
    to[round * 64 + i] = shared[i ^ 7] + shared[i / 32 * 32];
    sync_warp();
  }
}

TEST_F(EmulatorTest, SyncWarpOrdersTheLanesOfAWarp) {
  float* to = guarded<float>(3 * 64);
  run(within_warps, 64, 256, to);
  expect_ok();
  for (int k = 0; k < 3 * 64; ++k) ASSERT_EQ(to[k], static_cast<float>((k % 64 ^ 7) + k / 64 + k % 64 / 32 * 32 + k / 64));
}

// Rows of 64 floats through two stages; the second half of the last row does not exist.
template <bool kWaitsForAll>
STRATA_KERNEL pipeline(const float* from, float* to, std::int64_t rows, std::int64_t n) {
  const SharedArray<float> shared = shared_array<float>(0, 2 * 64);
  const int i = thread_index();
  const auto start = [&](std::int64_t row) {
    if (row < rows && i < 16) {
      const std::int64_t at = row * 64 + 4 * i;
      copy_async(shared, static_cast<int>(row % 2) * 64 + 4 * i, from + (at < n ? at : 0), at < n);
    }
    copy_async_commit();
  };
  start(0);
  for (std::int64_t row = 0; row < rows; ++row) {
    start(row + 1);
    copy_async_wait<kWaitsForAll ? 0 : 1>();
    sync_block();
    for (int k = i; k < 64; k += block_threads()) to[row * 64 + k] = shared[static_cast<int>(row % 2) * 64 + 63 - k];
    sync_block();
  }
}

TEST_F(EmulatorTest, AsynchronousCopiesArriveInGroups) {
  constexpr std::size_t kRows = 5, kN = kRows * 64 - 32;
  float* from = guarded<float>(kN);
  float* to = guarded<float>(kRows * 64);
  for (std::size_t i = 0; i < kN; ++i) from[i] = static_cast<float>(i + 1);
  for (const bool all : {false, true}) {
    run(all ? pipeline<true> : pipeline<false>, 32, 512, from, to, std::int64_t{kRows}, std::int64_t{kN});
    expect_ok();
    for (std::size_t k = 0; k < kRows * 64; ++k) {
      const std::size_t source = k / 64 * 64 + 63 - k % 64;
      ASSERT_EQ(to[k], source < kN ? from[source] : 0.0f) << k;
    }
  }
}

}  // namespace
}  // namespace strata::gpu_emulated
