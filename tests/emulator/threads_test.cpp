// Where threads are, barriers, and what lanes give each other.
#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

STRATA_KERNEL write_place(std::int64_t* to) {
  const std::int64_t block = (block_z() * 3 + block_y()) * blocks_x() + block_x();
  to[block * block_threads() + thread_index()] =
      block * 10000 + warp_index() * 100 + lane_index() + (block_threads() == 64 ? 0 : 1);
}

TEST_F(EmulatorTest, EveryThreadOfEveryBlockRunsOnceAndKnowsWhereItIs) {
  std::int64_t* to = guarded<std::int64_t>(2 * 3 * 2 * 64);
  launch(*queue_, write_place, {.x = 2, .y = 3, .z = 2}, 64, 0, to);
  expect_ok();
  for (std::int64_t block = 0; block < 12; ++block)
    for (std::int64_t i = 0; i < 64; ++i) ASSERT_EQ(to[block * 64 + i], block * 10000 + i / 32 * 100 + i % 32);
}

TEST_F(EmulatorTest, AnEmptyGridRunsNothing) {
  launch(*queue_, write_place, {.x = 0}, 64, 0, nullptr);
  launch(*queue_, write_place, {.x = 1, .y = 0}, 64, 0, nullptr);
  expect_ok();
  EXPECT_TRUE(driver_.counts().kernels.empty());
}

// Reverses the block's numbers twice through shared memory.
STRATA_KERNEL reverse(const float* from, float* to) {
  const SharedArray<float> shared = shared_array<float>(0, block_threads());
  const int i = thread_index();
  shared[i] = from[i];
  sync_block();
  const float other = shared[block_threads() - 1 - i];
  sync_block();
  shared[i] = other + 1.0f;
  sync_block();
  to[block_x() * block_threads() + i] = shared[block_threads() - 1 - i];
}

TEST_F(EmulatorTest, BarriersOrderSharedMemory) {
  for (const int threads : {32, 64, 256, 1024}) {
    float* from = guarded<float>(static_cast<std::size_t>(threads));
    float* to = guarded<float>(static_cast<std::size_t>(2 * threads));
    for (int i = 0; i < threads; ++i) from[i] = static_cast<float>(i);
    launch(*queue_, reverse, {.x = 2}, threads, static_cast<std::size_t>(threads) * sizeof(float), from, to);
    expect_ok();
    for (int i = 0; i < 2 * threads; ++i) ASSERT_EQ(to[i], static_cast<float>(i % threads + 1));
  }
}

template <class T>
STRATA_KERNEL shuffles(T* to) {
  const int lane = lane_index();
  const T mine = static_cast<T>(thread_index() * 10);
  T* mine_to = to + thread_index() * 3;
  mine_to[0] = shuffle_xor(mine, 5);
  mine_to[1] = shuffle(mine, (lane + 3) % 32);
  mine_to[2] = shuffle_down(mine, 4);
}

template <class T>
class ShuffleTest : public EmulatorTest {};
using Types = ::testing::Types<float, double, std::int32_t, std::uint32_t, std::int64_t>;
TYPED_TEST_SUITE(ShuffleTest, Types);

TYPED_TEST(ShuffleTest, GivesTheValueOfTheOtherLane) {
  TypeParam* to = this->template guarded<TypeParam>(64 * 3);
  this->run(shuffles<TypeParam>, 64, 0, to);
  this->expect_ok();
  for (int i = 0; i < 64; ++i) {
    const int warp = i / 32 * 32, lane = i % 32;
    EXPECT_EQ(to[i * 3], static_cast<TypeParam>(10 * (warp + (lane ^ 5))));
    EXPECT_EQ(to[i * 3 + 1], static_cast<TypeParam>(10 * (warp + (lane + 3) % 32)));
    EXPECT_EQ(to[i * 3 + 2], static_cast<TypeParam>(10 * (lane + 4 < 32 ? i + 4 : i)));
  }
}

STRATA_DEVICE float sum_warp(float value) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
STRATA_KERNEL sum_block(const float* from, float* to, std::int64_t n) {
  const SharedArray<float> parts = shared_array<float>(0, block_threads() / kWarp);
  float sum = 0.0f;
  for (std::int64_t i = thread_index(); i < n; i += block_threads()) sum += from[block_x() * n + i];
  sum = sum_warp(sum);
  if (lane_index() == 0) parts[warp_index()] = sum;
  sync_block();
  sum = 0.0f;
  for (int i = 0; i < block_threads() / kWarp; ++i) sum += parts[i];
  if (thread_index() == 0) to[block_x()] = sum;
}

TEST_F(EmulatorTest, ASumOverABlock) {
  float* from = guarded<float>(3 * 1000);
  float* to = guarded<float>(3);
  for (int i = 0; i < 3000; ++i) from[i] = static_cast<float>(i % 7);
  launch(*queue_, sum_block, {.x = 3}, 256, 256 / 32 * sizeof(float), from, to, std::int64_t{1000});
  expect_ok();
  for (int row = 0; row < 3; ++row) {
    float sum = 0.0f;
    for (int i = 0; i < 1000; ++i) sum += from[row * 1000 + i];
    EXPECT_EQ(to[row], sum);
  }
}

STRATA_KERNEL convert(float* to) {
  to[0] = bits_to_float(float_to_bits(1.5f));
  to[1] = bits_to_float(pack_bf16(1.0f, -2.0f) << 16);
  to[2] = bits_to_float(pack_bf16(1.0f, -2.0f) & 0xffff0000u);
  to[3] = fma_rn(0x1.000002p0f, 0x1.000002p0f, -0x1.000004p0f);  // 2^-46, which a product that was rounded loses
  to[4] = max_of(-1.0f, 2.0f);
}
TEST_F(EmulatorTest, ArithmeticAndConversions) {
  float* to = guarded<float>(5);
  run(convert, 32, 0, to);
  // Every lane writes the same: global memory is not checked for races.
  expect_ok();
  EXPECT_EQ(to[0], 1.5f);
  EXPECT_EQ(to[1], 1.0f);
  EXPECT_EQ(to[2], -2.0f);
  EXPECT_EQ(to[3], 0x1p-46f);
  EXPECT_EQ(to[4], 2.0f);
}

}  // namespace
}  // namespace strata::gpu_emulated
