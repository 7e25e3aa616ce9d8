#include <gtest/gtest.h>

#include <numbers>

#include "kernel_testing.h"
#include "runtime/kernels/rope.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT

TEST(RopeFrequencies, AreInversePowersOfTheta) {
  const std::vector<float> f = rope_inverse_frequencies(80, 10000.0, {});
  ASSERT_EQ(f.size(), 40u);
  for (std::size_t i = 0; i < f.size(); ++i)
    EXPECT_EQ(f[i], static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / 80.0)));
}

TEST(RopeFrequencies, Llama3ScalingKeepsShortAndStretchesLongWavelengths) {
  // The rule as published with Llama 3.1, in terms of wavelengths.
  const RopeScaling scaling{.factor = 8.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0, .original_max_position = 8192};
  const std::vector<float> plain = rope_inverse_frequencies(128, 500000.0, {});
  const std::vector<float> f = rope_inverse_frequencies(128, 500000.0, scaling);
  int kept = 0, stretched = 0, blended = 0;
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double base = std::pow(500000.0, -2.0 * static_cast<double>(i) / 128.0);
    const double wavelength = 2.0 * std::numbers::pi / base;
    if (wavelength < 8192.0 / 4.0) {
      EXPECT_EQ(f[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_FLOAT_EQ(f[i], static_cast<float>(base / 8.0));
      ++stretched;
    } else {
      const double smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      EXPECT_FLOAT_EQ(f[i], static_cast<float>((1.0 - smooth) * base / 8.0 + smooth * base));
      ++blended;
    }
  }
  EXPECT_TRUE(kept > 0 && stretched > 0 && blended > 0);
}

TEST(RopeFrequencies, RefuseAnOddHead) { EXPECT_THROW(rope_inverse_frequencies(15, 1e4, {}), ContractViolation); }

TEST(RopeTables, HoldCosineAndSineOfTheF32Product) {
  const std::vector<float> f = rope_inverse_frequencies(6, 10000.0, {});
  std::vector<float> cos(300), sin(300);
  rope_tables(100, f, cos.data(), sin.data());
  for (std::size_t t = 0; t < 100; ++t)
    for (std::size_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(static_cast<float>(t) * f[i]);
      EXPECT_EQ(cos[t * 3 + i], static_cast<float>(std::cos(angle)));
      EXPECT_EQ(sin[t * 3 + i], static_cast<float>(std::sin(angle)));
    }
}

struct Case {
  std::int64_t B, T, N, K, H;
};
const std::vector<Case> kCases = {{0, 5, 2, 1, 8},  {1, 1, 1, 1, 2},  {1, 5, 4, 2, 30}, {2, 5, 2, 2, 32},
                                  {5, 1, 3, 1, 34}, {2, 5, 2, 1, 80}, {2, 33, 8, 2, 64}};

TEST(RopeApply, RotatesQueriesAndKeysByPositionAndBack) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Case& c : kCases) {
      const std::int64_t R = c.B * c.T, D = (c.N + 2 * c.K) * c.H, half = c.H / 2;
      const Array qkv = normal(dtype, {R, D}, "qkv");
      Array cos(DType::f32, {c.T + 3, half}), sin(DType::f32, {c.T + 3, half});
      rope_tables(c.T + 3, rope_inverse_frequencies(c.H, 10000.0, {}), cos.ref().as<float>(), sin.ref().as<float>());
      for (const bool inverse : {false, true}) {
        std::vector<double> expected(static_cast<std::size_t>(R * D));
        for (std::int64_t r = 0; r < R; ++r)
          for (std::int64_t m = 0; m < c.N + 2 * c.K; ++m)
            for (std::int64_t i = 0; i < half; ++i) {
              const std::int64_t a = r * D + m * c.H + i, b = a + half;
              const bool rotated = m < c.N + c.K;
              const double cosine = rotated ? cos.at(r % c.T * half + i) : 1.0;
              const double sine = (inverse ? -1.0 : 1.0) * (rotated ? sin.at(r % c.T * half + i) : 0.0);
              expected[static_cast<std::size_t>(a)] = qkv.at(a) * cosine - qkv.at(b) * sine;
              expected[static_cast<std::size_t>(b)] = qkv.at(b) * cosine + qkv.at(a) * sine;
            }
        on_every_machine(
            [&](StreamRef stream) {
              Array x = qkv, co = cos, si = sin;
              rope_apply({.qkv_RD = x.ref(),
                          .cos_TH2 = co.ref(),
                          .sin_TH2 = si.ref(),
                          .T = c.T,
                          .N = c.N,
                          .K = c.K,
                          .H = c.H,
                          .inverse = inverse},
                         stream);
              finish(stream);
              return Outputs{x};
            },
            [&](const Outputs& out) { expect_close(out[0], expected, "qkv"); });
      }
    }
}

}  // namespace
}  // namespace strata::kernels
