// Every body of adamw_update gives the same bits, whatever the length,
// alignment and cutting. Mutations caught: a * b + c instead of fma in one
// body, a reciprocal estimate instead of division, NaN not canonicalised,
// rounding to bf16 by truncation, a tail mask one too long or short, flush to
// zero, p16 streamed to the wrong line.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "adamw_testing.h"
#include "optim/adamw.h"
#include "runtime/kernels/isa.h"
#include "runtime/status.h"

namespace strata {
namespace {

using namespace adamw_testing;  // NOLINT

constexpr std::uint32_t kCanonicalNaN = 0x7fc00000u;

// The contract, literally, with one NaN.
void reference(const AdamWSlice& s, const AdamWScalars& c) {
  const auto canonical = [](float x) { return std::isnan(x) ? std::bit_cast<float>(kCanonicalNaN) : x; };
  for (std::int64_t i = 0; i < s.n; ++i) {
    const float g = (s.g16 != nullptr ? to_float(s.g16[i]) : s.g[i]) * c.grad_scale;
    const float p = s.decay ? s.p[i] * c.decay_factor : s.p[i];
    const float m = std::fma(c.one_minus_beta1, g - s.m[i], s.m[i]);
    const float v = std::fma(c.one_minus_beta2 * g, g, c.beta2 * s.v[i]);
    const float d = std::fma(std::sqrt(v), c.inv_sqrt_bias2, c.eps);
    s.p[i] = canonical(std::fma(-c.step_size, m / d, p));
    s.m[i] = canonical(m);
    s.v[i] = canonical(v);
    if (s.p16 != nullptr) s.p16[i] = to_bf16(s.p[i]);
  }
}

const AdamWScalars kScalars = adamw_scalars({.weight_decay = 0.1}, 3e-4, 7, 0.37);
constexpr std::size_t kLengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097};

// Runs each test with every instruction set of this machine.
class AdamWBits : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

TEST_P(AdamWBits, EqualTheWrittenSequenceForAnyValueLengthAndAlignment) {
  for (const std::size_t n : kLengths) {
    for (const std::size_t offset : {0, 1, 2, 3, 5, 8, 13}) {
      for (const bool decay : {false, true}) {
        for (const auto& [with16, gradient16] : {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
          State want(n, 0), got(n, offset);
          want.fill(n, n + offset);
          got.fill(n, n + offset);
          AdamWSlice a = want.slice(0, n, with16, gradient16), b = got.slice(0, n, with16, gradient16);
          a.decay = b.decay = decay;
          reference(a, kScalars);
          adamw_update(b, kScalars);
          ASSERT_TRUE(same(want, got, n)) << "n " << n << ", offset " << offset << ", decay " << decay << ", p16 " << with16
                                          << ", g16 " << gradient16;
          ASSERT_TRUE(got.guards_intact()) << "wrote outside: n " << n << ", offset " << offset;
        }
      }
    }
  }
}

TEST_P(AdamWBits, ResultsMayGoElsewhere) {
  for (const std::size_t n : kLengths) {
    for (const std::size_t offset : {0, 1, 13}) {
      State want(n, 0), from(n, offset), to(n, offset + 2);
      want.fill(n, n);
      from.fill(n, n);
      adamw_update(want.slice(0, n, true), kScalars);
      AdamWSlice slice = from.slice(0, n, true);
      slice.p16 = to.p16.data();
      slice.new_p = to.p.data(), slice.new_m = to.m.data(), slice.new_v = to.v.data();
      ThreadPool pool(2);
      adamw_update(slice, kScalars, pool);
      ASSERT_TRUE(same(want, to, n)) << "n " << n << ", offset " << offset;
      State kept(n, 0);
      kept.fill(n, n);
      ASSERT_TRUE(same(kept, from, n)) << "n " << n << ", offset " << offset;
      ASSERT_TRUE(to.guards_intact() && from.guards_intact());
    }
  }
}

TEST_P(AdamWBits, DoNotDependOnCutting) {
  constexpr std::size_t kN = 4097;
  State whole(kN, 0);
  whole.fill(kN, 1);
  adamw_update(whole.slice(0, kN, true), kScalars);
  for (const std::size_t cut : {1, 15, 16, 17, 33, 1000, 4095, 4096}) {
    State pieces(kN, 1);
    pieces.fill(kN, 1);
    for (std::size_t i = 0; i < kN; i += cut) adamw_update(pieces.slice(i, std::min(cut, kN - i), true), kScalars);
    ASSERT_TRUE(same(whole, pieces, kN)) << "cut " << cut;
  }
}

TEST_P(AdamWBits, DoNotDependOnTheNumberOfThreads) {
  constexpr std::size_t kN = 3 * 65536 + 17;
  for (const bool gradient16 : {false, true}) {
    State alone(kN, 0);
    alone.fill(kN, 2);
    adamw_update(alone.slice(0, kN, true, gradient16), kScalars);
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      State shared(kN, 3);
      shared.fill(kN, 2);
      adamw_update(shared.slice(0, kN, true, gradient16), kScalars, pool);
      ASSERT_TRUE(same(alone, shared, kN)) << threads << " threads";
      ASSERT_TRUE(shared.guards_intact());
    }
  }
}

TEST_P(AdamWBits, GradScaleOneChangesNothing) {
  constexpr std::size_t kN = 1000;
  AdamWScalars scalars = kScalars;
  scalars.grad_scale = 1.0f;
  State got(kN, 0), want(kN, 0);
  got.fill(kN, 3);
  want.fill(kN, 3);
  adamw_update(got.slice(0, kN, true), scalars);
  for (std::size_t i = 0; i < kN; ++i) {  // the sequence without its first line
    const float g = want.g.data()[i], m = want.m.data()[i], v = want.v.data()[i];
    const float first = std::fma(scalars.one_minus_beta1, g - m, m);
    const float second = std::fma(scalars.one_minus_beta2 * g, g, scalars.beta2 * v);
    ASSERT_EQ(bits(got.m.data()[i]), std::isnan(first) ? kCanonicalNaN : bits(first)) << i;
    ASSERT_EQ(bits(got.v.data()[i]), std::isnan(second) ? kCanonicalNaN : bits(second)) << i;
  }
}

TEST_P(AdamWBits, KeepDenormalsAndTheCanonicalNaN) {
  float p = 0x1p-140f, m = 0x1p-148f, v = 0x1p-140f;
  const float g = 0.0f;
  bf16 p16;
  AdamWScalars scalars = kScalars;
  adamw_update({&p, &m, &v, &g, &p16, 1, false}, scalars);
  EXPECT_EQ(m, 0x1p-148f);  // 0.9 of two units in the last place is two
  EXPECT_GT(v, 0x1.fep-141f);
  EXPECT_LT(v, 0x1p-140f);
  EXPECT_NE(p, 0.0f);
  const float nan_gradient = -std::numeric_limits<float>::quiet_NaN();
  adamw_update({&p, &m, &v, &nan_gradient, &p16, 1, false}, scalars);
  EXPECT_EQ(bits(p), kCanonicalNaN);
  EXPECT_EQ(bits(m), kCanonicalNaN);
  EXPECT_EQ(bits(v), kCanonicalNaN);
  EXPECT_EQ(p16.bits, kBf16CanonicalNaN);
}

INSTANTIATE_TEST_SUITE_P(Isas, AdamWBits, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& tested) { return std::string(kernels::to_string(tested.param)); });

TEST(AdamWScalarsTest, FollowTheClosedForms) {
  const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  for (const std::int64_t step : {1, 2, 3, 10, 1000, 1000000}) {
    const double lr = 6e-4;
    const AdamWScalars s = adamw_scalars(config, lr, step, 0.5);
    const auto n = static_cast<double>(step);
    EXPECT_FLOAT_EQ(s.step_size, static_cast<float>(lr / -std::expm1(n * std::log(0.9))));
    EXPECT_FLOAT_EQ(s.inv_sqrt_bias2, static_cast<float>(1.0 / std::sqrt(-std::expm1(n * std::log(0.95)))));
    EXPECT_EQ(s.decay_factor, static_cast<float>(1.0 - 6e-5));
    EXPECT_EQ(s.one_minus_beta2,
              static_cast<float>(1.0 - 0.95));  // not 1.0f - 0.95f
    EXPECT_EQ(s.grad_scale, 0.5f);
  }
  EXPECT_THROW(adamw_scalars(config, 1e-3, 0, 1.0), ContractViolation);
}

}  // namespace
}  // namespace strata
