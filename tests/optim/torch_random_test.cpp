// Random numbers of PyTorch and the chain of APOLLO's seeds (tests/oracle/make_seed_vectors.py). Mutations caught: the last
// incomplete group not drawn anew; sine and cosine swapped; the way for few numbers taken for 16, or the other for 15; 64-bit
// draws with the low half first; the first of the 15 draws; all 64 bits of a seed.
#include "optim/torch_random.h"

#include <gtest/gtest.h>

#include <cmath>

#include "vector_file.h"

namespace strata {
namespace {

std::uint64_t seed_of(const std::string& name) { return std::stoull(name.substr(name.find("/seed") + 5)); }

TEST(TorchRandomOracle, NormalsAgreeToOneInAMillionPermutationsAndSeedsExactly) {
  const vector_file::File file("seeds.bin");
  int normals = 0, permutations = 0, chains = 0;
  for (const auto& [name, entry] : file.entries()) {
    SCOPED_TRACE(name);
    if (name.starts_with("randn/")) {
      const std::vector<float> want = entry.as<float>();
      std::vector<float> got(want.size());
      torch_randn(seed_of(name), got);
      for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_LE(std::abs(got[i] - want[i]), 1e-6f * std::max(1.0f, std::abs(want[i]))) << i;
      ++normals;
    } else if (name.starts_with("randperm/")) {
      const std::vector<std::int64_t> want = entry.as<std::int64_t>();
      EXPECT_EQ(torch_randperm(seed_of(name), static_cast<std::int64_t>(want.size())), want);
      ++permutations;
    } else if (name.starts_with("chain/")) {
      std::uint64_t seed = seed_of(name);
      for (const std::int64_t want : entry.as<std::int64_t>()) {
        seed = next_apollo_seed(seed);
        EXPECT_EQ(seed, static_cast<std::uint64_t>(want));
      }
      ++chains;
    }
  }
  EXPECT_EQ(normals, 50);
  EXPECT_EQ(permutations, 35);
  EXPECT_EQ(chains, 8);
}

}  // namespace
}  // namespace strata
