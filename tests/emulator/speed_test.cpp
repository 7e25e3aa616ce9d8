// What the emulator costs: CI runs every kernel on it. Limits are wide; a change of the order of magnitude fails.
#include <chrono>

#include "tests/emulator/emulator_testing.h"

namespace strata::gpu_emulated {
namespace {

STRATA_KERNEL normalise(const bf16* x, const bf16* weight, bf16* y, std::int64_t C) {
  const SharedArray<float> parts = shared_array<float>(0, 32);
  const bf16* row = x + block_x() * C;
  float sum = 0.0f;
  for (std::int64_t c = thread_index(); c < C; c += block_threads()) sum += to_float(row[c]) * to_float(row[c]);
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (lane_index() == 0) parts[warp_index()] = sum;
  sync_block();
  sum = 0.0f;
  for (int i = 0; i < block_threads() / kWarp; ++i) sum += parts[i];
  const float scale = 1.0f / sqrt_rn(sum / static_cast<float>(C) + 1e-5f);
  for (std::int64_t c = thread_index(); c < C; c += block_threads())
    y[block_x() * C + c] = to_bf16(to_float(row[c]) * scale * to_float(weight[c]));
}

double milliseconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

TEST_F(EmulatorTest, NormalisesRowsInMilliseconds) {
  constexpr std::int64_t kRows = 256, kC = 1024;
  bf16* x = guarded<bf16>(kRows * kC);
  bf16* weight = guarded<bf16>(kC);
  bf16* y = guarded<bf16>(kRows * kC);
  for (std::int64_t i = 0; i < kRows * kC; ++i) x[i] = to_bf16(static_cast<float>(i % 13) - 6.0f);
  for (std::int64_t i = 0; i < kC; ++i) weight[i] = to_bf16(1.0f);
  const double milliseconds = milliseconds_of([&] {
    launch(*queue_, normalise, {.x = kRows}, 256, 128, x, weight, y, kC);
    expect_ok();
  });
  RecordProperty("milliseconds", std::to_string(milliseconds));
  EXPECT_LT(milliseconds, 3000.0);
}

// 2 x 32 switches and 32 shuffles a round.
STRATA_KERNEL shuffle_often(float* to, int rounds) {
  float value = 1.0f;
  for (int i = 0; i < rounds; ++i) value = shuffle_xor(value, 1);
  to[thread_index()] = value;
}
TEST_F(EmulatorTest, SwitchesFibresInNanoseconds) {
  float* to = guarded<float>(256);
  constexpr int kRounds = 1000;
  const double milliseconds = milliseconds_of([&] {
    run(shuffle_often, 256, 0, to, kRounds);
    expect_ok();
  });
  const double nanoseconds = milliseconds * 1e6 / (256.0 * kRounds);
  RecordProperty("nanoseconds_a_shuffle", std::to_string(nanoseconds));
  EXPECT_LT(nanoseconds, 3000.0);
}

}  // namespace
}  // namespace strata::gpu_emulated
