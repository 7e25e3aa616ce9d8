#include "parallel/partition.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

// Every element has one owner, cuts are multiples of the block, shares differ by at most one block.
TEST(PartitionBlocks, CoversTheRangeInRankOrder) {
  for (const int world : {1, 2, 3, 4, 7})
    for (const std::int64_t block : {1, 4096})
      for (const std::int64_t numel : {0L, 1L, block - 1, block, block + 1, 7 * block, 10 * block + 3}) {
        const std::vector<Slice> slices = partition_blocks(numel, {world}, block);
        ASSERT_EQ(slices.size(), static_cast<std::size_t>(world));
        std::int64_t next = 0, least = numel, most = 0;
        for (const Slice& slice : slices) {
          EXPECT_EQ(slice.first, next);
          EXPECT_TRUE(slice.first % block == 0 || slice.first == numel);
          next = slice.end();
          const std::int64_t blocks = (slice.count + block - 1) / block;
          least = std::min(least, blocks);
          most = std::max(most, blocks);
        }
        EXPECT_EQ(next, numel);
        EXPECT_LE(most - least, 1);
      }
}

TEST(PartitionBlocks, GivesEmptySlicesWhenThereAreFewerBlocksThanRanks) {
  const std::vector<Slice> slices = partition_blocks(5, {3}, 4096);
  std::int64_t owners = 0;
  for (const Slice& slice : slices) owners += slice.count > 0 ? 1 : 0;
  EXPECT_EQ(owners, 1);
}

TEST(CutRecords, CutsFromTheSlicesStart) {
  EXPECT_EQ(cut_records({10, 0}, 4), std::vector<Slice>());
  EXPECT_EQ(cut_records({10, 3}, 4), (std::vector<Slice>{{10, 3}}));
  EXPECT_EQ(cut_records({10, 4}, 4), (std::vector<Slice>{{10, 4}}));
  EXPECT_EQ(cut_records({10, 9}, 4), (std::vector<Slice>{{10, 4}, {14, 4}, {18, 1}}));
}

}  // namespace
}  // namespace strata
