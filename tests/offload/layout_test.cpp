#include "offload/layout.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

UnitLayout unit(WorldSize world) {
  return layout_unit("u", {{"a", 10, true}, {"b", 5000, false}, {"c", 4096 * 3, true}}, world);
}

TEST(Layout, ParametersAreAlignedAndSlicesCoverTheUnitInBlocks) {
  for (const int world : {1, 2, 3, 4, 7}) {
    const UnitLayout u = unit(WorldSize{world});
    EXPECT_EQ(u.params[0].offset, 0);
    EXPECT_EQ(u.params[1].offset, 64);
    EXPECT_EQ(u.params[2].offset % kParamAlignment, 0);
    std::int64_t next = 0;
    for (const Slice& s : u.slices) {
      EXPECT_EQ(s.first, next);
      EXPECT_TRUE(s.first % kLayoutBlock == 0 || s.count == 0);
      next = s.end();
    }
    EXPECT_EQ(next, u.numel);
  }
}

TEST(Layout, PiecesOfARangeAreItsElementsWithoutPadding) {
  const UnitLayout u = unit(WorldSize{1});
  const std::vector<ParamPiece> pieces = params_in(u, {5, 100});
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].param, 0u);
  EXPECT_EQ(pieces[0].first, 5);
  EXPECT_EQ(pieces[0].offset, 0);
  EXPECT_EQ(pieces[0].count, 5);
  EXPECT_EQ(pieces[1].first, 0);
  EXPECT_EQ(pieces[1].offset, 59);
  EXPECT_EQ(pieces[1].count, 41);
  EXPECT_TRUE(params_in(u, {10, 54}).empty());
}

TEST(Layout, ElementsAreNamed) {
  const UnitLayout u = unit(WorldSize{1});
  EXPECT_EQ(element_name(u, 9), "a[9]");
  EXPECT_EQ(element_name(u, 10), "u");
  EXPECT_EQ(element_name(u, 64), "b[0]");
}

}  // namespace
}  // namespace strata
