#include "runtime/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "runtime/status.h"

namespace strata {
namespace {

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
  std::vector<float> all(101);
  draw.normal(0, 0.5f, 2.0f, all);
  for (const std::uint64_t first : {0u, 1u, 2u, 7u, 50u, 99u, 100u})
    for (const std::uint64_t count : {0u, 1u, 2u, 3u, 50u}) {
      if (first + count > all.size()) continue;
      std::vector<float> part(count);
      draw.normal(first, 0.5f, 2.0f, part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(first)))
          << first << " " << count;
    }
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
