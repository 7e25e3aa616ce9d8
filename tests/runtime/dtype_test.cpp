#include "runtime/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace strata {
namespace {

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

// The value of a 16-bit float from its definition: sign, exponent, mantissa.
double value_of(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = static_cast<double>(bits & ((1 << mantissa_bits) - 1)) / static_cast<double>(1 << mantissa_bits);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0.0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias);
  return sign * std::ldexp(1.0 + mantissa, exponent - bias);
}

struct Bf16 {
  using Type = bf16;
  static constexpr int kExponentBits = 8, kMantissaBits = 7;
  static constexpr std::uint16_t kInfinity = 0x7f80, kNaN = 0x7fc0;
  static bf16 narrow(float x) { return to_bf16(x); }
};
struct F16 {
  using Type = f16;
  static constexpr int kExponentBits = 5, kMantissaBits = 10;
  static constexpr std::uint16_t kInfinity = 0x7c00, kNaN = 0x7e00;
  static f16 narrow(float x) { return to_f16(x); }
};

template <class Format>
class SixteenBits : public ::testing::Test {};
using Formats = ::testing::Types<Bf16, F16>;
TYPED_TEST_SUITE(SixteenBits, Formats);

TYPED_TEST(SixteenBits, EveryPatternWidensToItsValueAndBackToItself) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const typename TypeParam::Type x{static_cast<std::uint16_t>(i)};
    const double expected = value_of(x.bits, TypeParam::kExponentBits, TypeParam::kMantissaBits);
    const float wide = to_float(x);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << i;
      ASSERT_EQ(TypeParam::narrow(wide).bits, TypeParam::kNaN) << i;
    } else {
      ASSERT_EQ(static_cast<double>(wide), expected) << i;
      ASSERT_EQ(std::signbit(wide), (i & 0x8000u) != 0) << i;
      ASSERT_EQ(TypeParam::narrow(wide).bits, x.bits) << i;
    }
  }
}

// Between every two neighbours: the middle goes to the even one, everything else to the nearer one. The middle of two 16-bit
// values is an f32, as are its neighbours.
TYPED_TEST(SixteenBits, RoundsToNearestAndTiesToEven) {
  for (const std::uint16_t sign : {std::uint16_t{0}, std::uint16_t{0x8000}})
    for (std::uint16_t i = 0; i + 1 < TypeParam::kInfinity; ++i) {
      const auto low = static_cast<std::uint16_t>(sign | i), high = static_cast<std::uint16_t>(low + 1);
      const double middle = (value_of(low, TypeParam::kExponentBits, TypeParam::kMantissaBits) +
                             value_of(high, TypeParam::kExponentBits, TypeParam::kMantissaBits)) /
                            2.0;
      const auto exact = static_cast<float>(middle);
      ASSERT_EQ(static_cast<double>(exact), middle);
      ASSERT_EQ(TypeParam::narrow(exact).bits, i % 2 == 0 ? low : high) << i;
      ASSERT_EQ(TypeParam::narrow(std::nextafterf(exact, 0.0f)).bits, low) << i;
      ASSERT_EQ(TypeParam::narrow(std::nextafterf(exact, exact * 2.0f)).bits, high) << i;
    }
}

TYPED_TEST(SixteenBits, OverflowsToInfinityFromHalfwayBeyondTheLargest) {
  const auto largest = static_cast<std::uint16_t>(TypeParam::kInfinity - 1);
  const double top = value_of(largest, TypeParam::kExponentBits, TypeParam::kMantissaBits);
  const double step =
      top - value_of(static_cast<std::uint16_t>(largest - 1), TypeParam::kExponentBits, TypeParam::kMantissaBits);
  const auto limit = static_cast<float>(top + step / 2.0);
  EXPECT_EQ(TypeParam::narrow(limit).bits, TypeParam::kInfinity);
  EXPECT_EQ(TypeParam::narrow(-limit).bits, TypeParam::kInfinity | 0x8000);
  EXPECT_EQ(TypeParam::narrow(std::nextafterf(limit, 0.0f)).bits, largest);
  EXPECT_EQ(TypeParam::narrow(std::numeric_limits<float>::infinity()).bits, TypeParam::kInfinity);
  EXPECT_EQ(TypeParam::narrow(-std::numeric_limits<float>::infinity()).bits, TypeParam::kInfinity | 0x8000);
}

TYPED_TEST(SixteenBits, EveryNaNBecomesTheCanonicalOne) {
  for (const std::uint32_t payload : {1u, 0x1fffu, 0x2000u, 0xffffu, 0x10000u, 0x3fffffu, 0x400000u, 0x7fffffu})
    for (const std::uint32_t sign : {0u, 0x80000000u})
      EXPECT_EQ(TypeParam::narrow(std::bit_cast<float>(sign | 0x7f800000u | payload)).bits, TypeParam::kNaN) << payload;
}

TYPED_TEST(SixteenBits, KeepsTheSignOfZeroAndFlushesNothingThatRoundsUp) {
  EXPECT_EQ(TypeParam::narrow(0.0f).bits, 0);
  EXPECT_EQ(TypeParam::narrow(-0.0f).bits, 0x8000);
  EXPECT_EQ(TypeParam::narrow(-std::numeric_limits<float>::denorm_min()).bits, 0x8000);
  const auto smallest = static_cast<float>(value_of(1, TypeParam::kExponentBits, TypeParam::kMantissaBits));
  EXPECT_EQ(TypeParam::narrow(smallest).bits, 1);
  EXPECT_EQ(TypeParam::narrow(smallest * 0.75f).bits, 1);
  EXPECT_EQ(TypeParam::narrow(smallest * 0.5f).bits, 0);
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4u);
  EXPECT_EQ(size_of(DType::bf16), 2u);
  EXPECT_EQ(size_of(DType::f16), 2u);
  EXPECT_EQ(size_of(DType::i32), 4u);
  EXPECT_STREQ(to_string(DType::bf16), "bf16");
  EXPECT_EQ(bits_of(to_float(bf16{0x3f80})), bits_of(1.0f));
}

}  // namespace
}  // namespace strata
