// Which whole tensors FRUGAL trains with states, against what the authors' code chose (make_schedule_vectors.py). Mutations
// caught: counts cut off or rounded half up, a pointer that starts one off or does not wrap, mirror's pairs from one end.
#include "optim/frugal_blocks.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "torch_permutation.h"
#include "vector_file.h"

namespace strata {
namespace {

BlockOrder order_of(const std::string& name) {
  if (name == "random") return BlockOrder::random;
  if (name == "ascending") return BlockOrder::ascending;
  return name == "mirror" ? BlockOrder::mirror : BlockOrder::descending;
}

TEST(FrugalBlocksTest, AreThoseOfTheAuthors) {
  const vector_file::File file("schedules.bin");
  int orders = 0, refreshes = 0;
  for (const auto& [name, entry] : file.entries()) {
    if (!name.starts_with("order/") || !name.ends_with("/count")) continue;
    const std::string which = name.substr(0, name.size() - 6);
    SCOPED_TRACE(which);
    const std::size_t slash = which.find('/', 6);
    const BlockOrder order = order_of(which.substr(6, slash - 6));
    const double density = std::stod(which.substr(slash + 4));
    const auto count = static_cast<std::int64_t>(file.number(name));
    ASSERT_EQ(active_block_count(order, 21, density).value(), count);
    std::mt19937 engine(static_cast<std::uint32_t>(file.number(which + "/seed")));
    for (std::int64_t k = 0; k < 9; ++k, ++refreshes) {
      const auto active = order == BlockOrder::random ? active_blocks(torch_permutation(21, engine), count)
                                                      : active_blocks(order, 21, count, k, 0);
      ASSERT_EQ(active, file.integers(which + "/refresh" + std::to_string(k) + "/active")) << "refresh " << k;
    }
    ++orders;
  }
  EXPECT_EQ(orders, 18);
  EXPECT_EQ(refreshes, 18 * 9);
}

TEST(FrugalBlocksTest, HalvesGoToTheEvenNumber) {
  const auto count = [](std::int64_t tensors, double density) {
    return active_block_count(BlockOrder::random, tensors, density).value();
  };
  EXPECT_EQ(count(6, 0.25), 2);   // 1.5
  EXPECT_EQ(count(6, 0.75), 4);   // 4.5
  EXPECT_EQ(count(21, 0.5), 10);  // 10.5
  EXPECT_EQ(count(2, 0.25), 0);   // 0.5
  EXPECT_EQ(count(7, 0.24), 2);   // 1.68
  EXPECT_EQ(count(7, 1.0), 7);
  EXPECT_EQ(count(0, 0.5), 0);
}

TEST(FrugalBlocksTest, MirrorNeedsPairs) {
  const auto odd = active_block_count(BlockOrder::mirror, 21, 0.25);
  ASSERT_FALSE(odd.ok());
  EXPECT_EQ(odd.status().code(), Code::invalid_config);
  EXPECT_NE(odd.status().message().find("21 tensors is 5"), std::string::npos) << odd.status().message();
  EXPECT_EQ(active_block_count(BlockOrder::mirror, 21, 0.3).value(), 6);
  EXPECT_TRUE(active_blocks(BlockOrder::mirror, 1, 0, 3, 0).empty());
}

TEST(FrugalBlocksTest, RandomOnesAreDrawnAnewFromTheSeed) {
  const auto draw = [](std::int64_t refresh, std::uint64_t seed) {
    return active_blocks(BlockOrder::random, 200, 50, refresh, seed);
  };
  EXPECT_EQ(draw(0, 1).size(), 50u);
  EXPECT_EQ(draw(3, 1), draw(3, 1));
  EXPECT_NE(draw(3, 1), draw(4, 1));
  EXPECT_NE(draw(3, 1), draw(3, 2));
}

}  // namespace
}  // namespace strata
