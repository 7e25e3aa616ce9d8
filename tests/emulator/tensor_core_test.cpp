// mma and ldmatrix against matrices.
#include <cmath>
#include <random>

#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

STRATA_DEVICE std::uint32_t pair_at(const bf16* x) { return x[0].bits | static_cast<std::uint32_t>(x[1].bits) << 16; }

// D (16x8) += A (16x16) B (16x8), B stored as columns; fragments as device_cuda.h describes them.
STRATA_KERNEL multiply_once(const bf16* a, const bf16* b_columns, float* d) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const std::uint32_t fa[4] = {pair_at(a + g * 16 + 2 * t), pair_at(a + (g + 8) * 16 + 2 * t), pair_at(a + g * 16 + 2 * t + 8),
                               pair_at(a + (g + 8) * 16 + 2 * t + 8)};
  const std::uint32_t fb[2] = {pair_at(b_columns + g * 16 + 2 * t), pair_at(b_columns + g * 16 + 2 * t + 8)};
  float fd[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t], d[(g + 8) * 8 + 2 * t + 1]};
  mma_16x8x16(fd, fa, fb);
  d[g * 8 + 2 * t] = fd[0];
  d[g * 8 + 2 * t + 1] = fd[1];
  d[(g + 8) * 8 + 2 * t] = fd[2];
  d[(g + 8) * 8 + 2 * t + 1] = fd[3];
}

TEST_F(EmulatorTest, MmaIsAMatrixProduct) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  bf16* a = guarded<bf16>(16 * 16);
  bf16* b = guarded<bf16>(8 * 16);
  float* d = guarded<float>(16 * 8);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 256; ++i) a[i] = to_bf16(normal(random));
    for (int i = 0; i < 128; ++i) b[i] = to_bf16(normal(random));
    double expected[16 * 8];
    for (int i = 0; i < 128; ++i) {
      d[i] = normal(random);
      expected[i] = static_cast<double>(d[i]);
      for (int k = 0; k < 16; ++k)
        expected[i] += static_cast<double>(to_float(a[i / 8 * 16 + k])) * static_cast<double>(to_float(b[i % 8 * 16 + k]));
    }
    run(multiply_once, 32, 0, a, b, d);
    expect_ok();
    for (int i = 0; i < 128; ++i) ASSERT_NEAR(static_cast<double>(d[i]), expected[i], 1e-5) << i;
  }
}

// Element e of shared memory holds e. Lane l gives row (5 l) % 32 of a pitch of 40: not in order, not beside each other.
STRATA_DEVICE int row_place(int lane) { return 5 * lane % 32 * 40; }
STRATA_KERNEL load_both(std::uint32_t* to) {
  const SharedArray<bf16> shared = shared_array<bf16>(32, 32 * 40);
  for (int i = thread_index(); i < 32 * 40; i += block_threads()) shared[i] = bf16{static_cast<std::uint16_t>(i)};
  sync_block();
  std::uint32_t r[4], transposed[4];
  load_matrices(r, shared, row_place(lane_index()) + 8);
  load_matrices_transposed(transposed, shared, row_place(lane_index()) + 8);
  for (int k = 0; k < 4; ++k) {
    to[thread_index() * 8 + k] = r[k];
    to[thread_index() * 8 + 4 + k] = transposed[k];
  }
}

TEST_F(EmulatorTest, LdmatrixGivesRowsOrColumnsOfFourMatrices) {
  std::uint32_t* to = guarded<std::uint32_t>(64 * 8);
  run(load_both, 64, 32 + 32 * 40 * 2, to);
  expect_ok();
  const auto element = [](int k, int row, int column) {
    return static_cast<std::uint32_t>(row_place(8 * k + row) + 8 + column);
  };
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < 4; ++k) {
      const int g = i % 32 / 4, t = i % 4 * 2;
      ASSERT_EQ(to[i * 8 + k], element(k, g, t) | element(k, g, t + 1) << 16);
      ASSERT_EQ(to[i * 8 + 4 + k], element(k, t, g) | element(k, t + 1, g) << 16);
    }
}

}  // namespace
}  // namespace strata::gpu_emulated
