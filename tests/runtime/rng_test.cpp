#include "runtime/rng.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>
#include <set>
#include <vector>

#include "runtime/kernels/isa.h"
#include "runtime/kernels/normal_rule.h"
#include "runtime/status.h"

namespace strata {
namespace {

struct Operations {
  static float add(float a, float b) { return a + b; }
  static float sub(float a, float b) { return a - b; }
  static float mul(float a, float b) { return a * b; }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float sqrt(float a) { return std::sqrt(a); }
  static std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
  static float value(std::uint32_t x) { return std::bit_cast<float>(x); }
};
using NormalRule = kernels::NormalRule<Operations>;

// Known answers distributed with Random123 (the implementation of the paper's authors), philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t kOnes = 0xffffffffu;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
            (Words{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Philox, AnySliceOfTheNormalsIsASliceOfAll) {
  const Philox draw(3, stream_id("w"));
  std::vector<float> all(501);
  draw.normal(0, 0.5f, 2.0f, all);
  for (const std::uint64_t first : {0u, 1u, 2u, 7u, 100u, 127u, 128u, 129u, 256u, 499u})
    for (const std::uint64_t count : {0u, 1u, 2u, 28u, 128u, 129u, 373u}) {
      if (first + count > all.size()) continue;
      std::vector<float> part(count);
      draw.normal(first, 0.5f, 2.0f, part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(first)))
          << first << " " << count;
    }
}

// In double, from the words that the layout of normal_table.h gives a value.
TEST(Philox, NormalsAreThoseOfBoxAndMuller) {
  const std::uint64_t seed = 0x123456789abcdefu, stream = stream_id("w"), start = (std::uint64_t{1} << 34) - 300;
  std::vector<float> values(1000);
  Philox(seed, stream).normal(start, 0.25f, 0.5f, values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint64_t index = start + i, block = index / 128 * 32 + index % 32, word = index % 128 / 32;
    const auto words = philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                                  {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    const std::size_t pair = word / 2 * 2;
    const float drawn = static_cast<float>(static_cast<std::int32_t>(words[pair] >> 1));
    const double radius = std::sqrt(-2.0 * std::log(static_cast<double>(drawn + 0.5f) * 0x1p-31));
    const double turn = (static_cast<double>(words[pair + 1] >> 30) +
                         (static_cast<double>(words[pair + 1] & 0x3fffffffu) - 0x20000000) * 0x1p-30) /
                        4.0;
    const double angle = 2.0 * std::numbers::pi * turn;
    const double want = 0.25 + 0.5 * radius * (word % 2 == 0 ? std::cos(angle) : std::sin(angle));
    ASSERT_NEAR(static_cast<double>(values[i]), want, 3e-7 * (1.0 + radius)) << i;
  }
}

TEST(Philox, NormalsAreTheSameBitsWithEveryInstructionSet) {
  const kernels::Isa before = kernels::active_isa();
  std::vector<float> first(20011), other(first.size());
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::set_isa(isa).ok());
    Philox(5, 9).normal(3, 0.1f, 1.5f, other);
    if (isa == kernels::available_isas().front()) first = other;
    EXPECT_EQ(std::memcmp(first.data(), other.data(), first.size() * sizeof(float)), 0) << to_string(isa);
  }
  ASSERT_TRUE(kernels::set_isa(before).ok());
}

// What a seed stands for must not change with the program.
TEST(Philox, NormalsDoNotChange) {
  std::array<float, 4> values;
  Philox(1234, 5678).normal(126, 0.0f, 1.0f, values);
  EXPECT_THAT(values, ::testing::ElementsAre(-0x1.0f03e6p-1f, -0x1.e5f338p-2f, 0x1.5d70cap-1f, -0x1.0089e6p-1f));
}

// The ends of what can be drawn: u of 1 and of 2^-32.
TEST(Philox, NormalsAreFiniteAtTheEndsOfTheirWords) {
  EXPECT_EQ(NormalRule::radius_square(1.0f), 0.0f);
  EXPECT_NEAR(NormalRule::radius_square(0x1p-32f), 64.0 * std::numbers::ln2, 1e-5);
  for (std::uint32_t bits = 0x3f7ffff0u; bits <= 0x3f800000u; ++bits)
    EXPECT_GE(NormalRule::radius_square(std::bit_cast<float>(bits)), 0.0f);
}

// Kolmogorov and Smirnov's distance to the normal distribution, beyond which 1 % of samples are.
TEST(Philox, NormalsAreDistributedNormally) {
  std::vector<float> x(400000);
  Philox(11, 12).normal(0, 0.0f, 1.0f, x);
  double both = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (i / 32 % 2 == 0) both += static_cast<double>(x[i]) * static_cast<double>(x[i + 32]);
  EXPECT_NEAR(both / 200000.0, 0.0, 4.0 / std::sqrt(200000.0)) << "the two of a pair are independent";
  std::sort(x.begin(), x.end());
  const auto n = static_cast<double>(x.size());
  double distance = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double below = 0.5 * std::erfc(-static_cast<double>(x[i]) / std::numbers::sqrt2);
    distance =
        std::max({distance, std::abs(below - static_cast<double>(i) / n), std::abs(below - static_cast<double>(i + 1) / n)});
  }
  EXPECT_LT(distance, 1.63 / std::sqrt(n));
  EXPECT_GT(x.back(), 4.0f);
  EXPECT_LT(x.front(), -4.0f);
}

TEST(Philox, NormalsHaveTheirMoments) {
  constexpr std::size_t kN = 200000;
  std::vector<float> x(kN);
  Philox(7, 1).normal(0, 1.0f, 3.0f, x);
  double mean = 0.0, square = 0.0, fourth = 0.0;
  for (const float v : x) mean += static_cast<double>(v) / kN;
  for (const float v : x) {
    const double z = (static_cast<double>(v) - 1.0) / 3.0;
    square += z * z / kN;
    fourth += z * z * z * z / kN;
  }
  EXPECT_NEAR(mean, 1.0, 4.0 * 3.0 / std::sqrt(kN));
  EXPECT_NEAR(square, 1.0, 0.02);
  EXPECT_NEAR(fourth, 3.0, 0.15);
}

TEST(Philox, SeedsAndStreamsAreIndependent) {
  std::set<std::uint32_t> values;
  for (std::uint64_t seed = 0; seed < 4; ++seed)
    for (std::uint64_t stream = 0; stream < 4; ++stream)
      for (std::uint64_t index = 0; index < 16; ++index) values.insert(Philox(seed, stream).u32(index));
  EXPECT_EQ(values.size(), 4u * 4u * 16u);
}

TEST(Philox, UniformIsInTheHalfOpenInterval) {
  const Philox draw(1, 2);
  double mean = 0.0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const float u = draw.uniform(i);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    mean += static_cast<double>(u) / 100000.0;
  }
  EXPECT_NEAR(mean, 0.5, 0.005);
}

TEST(Philox, U64HasBothHalvesOfItsBlock) {
  const Philox draw(9, 9);
  EXPECT_EQ(draw.u64(0), std::uint64_t{draw.u32(1)} << 32 | draw.u32(0));
  EXPECT_EQ(draw.u64(1), std::uint64_t{draw.u32(3)} << 32 | draw.u32(2));
}

TEST(StreamId, IsFnv1a64) {
  EXPECT_EQ(stream_id(""), 0xcbf29ce484222325u);
  EXPECT_EQ(stream_id("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(stream_id("foobar"), 0x85944171f73967e8u);
}

TEST(Permutation, IsABijectionForEverySmallSize) {
  for (std::uint64_t n = 1; n <= 300; ++n)
    for (const std::uint64_t epoch : {0u, 1u}) {
      const Permutation permutation(n, 5, epoch);
      EXPECT_EQ(permutation.size(), n);
      std::vector<bool> seen(n, false);
      for (std::uint64_t i = 0; i < n; ++i) {
        const std::uint64_t j = permutation(i);
        ASSERT_LT(j, n);
        ASSERT_FALSE(seen[j]) << "n " << n << ": " << j << " twice";
        seen[j] = true;
      }
    }
}

TEST(Permutation, ChangesWithSeedAndEpochAndIsRepeatable) {
  const auto order = [](std::uint64_t seed, std::uint64_t epoch) {
    const Permutation permutation(1000, seed, epoch);
    std::vector<std::uint64_t> values;
    for (std::uint64_t i = 0; i < 1000; ++i) values.push_back(permutation(i));
    return values;
  };
  EXPECT_EQ(order(1, 1), order(1, 1));
  EXPECT_NE(order(1, 1), order(1, 2));
  EXPECT_NE(order(1, 1), order(2, 1));
}

TEST(Permutation, ReachesHugeSizesAndRefusesIndicesOutside) {
  const std::uint64_t n = (std::uint64_t{1} << 40) + 3;
  const Permutation permutation(n, 1, 0);
  std::set<std::uint64_t> values;
  for (std::uint64_t i = n - 100; i < n; ++i) {
    EXPECT_LT(permutation(i), n);
    values.insert(permutation(i));
  }
  EXPECT_EQ(values.size(), 100u);
  EXPECT_THROW(permutation(n), ContractViolation);
  EXPECT_THROW(Permutation(0, 1, 0)(0), ContractViolation);
}

}  // namespace
}  // namespace strata
