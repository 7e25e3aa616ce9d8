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

// Rows x columns behind a vector and before another one.
UnitLayout with_matrix(std::int64_t rows, std::int64_t columns, int world) {
  return layout_unit("u", {{"a", 100}, {"w", rows * columns, 0, columns, row_cut(rows, columns)}, {"b", 9000}},
                     WorldSize{world});
}

TEST(Layout, RowsStayTogetherInShardsAndRecords) {
  struct Matrix {
    std::int64_t rows, columns;
  };
  for (const Matrix& m :
       {Matrix{330, 64}, {200, 96}, {5461, 2048}, {4096, 4096}, {11008, 4096}, {7, 5000}, {5001, 33}, {32000, 768}})
    for (const int world : {1, 2, 3, 8}) {
      SCOPED_TRACE(::testing::Message() << m.rows << " x " << m.columns << " over " << world);
      const UnitLayout u = with_matrix(m.rows, m.columns, world);
      const ParamExtent& w = u.params[1];
      EXPECT_EQ(w.offset % kLayoutBlock, 0);
      EXPECT_EQ(w.cut % m.columns, 0);
      EXPECT_EQ(w.cut % kLayoutBlock, 0);
      EXPECT_LE(w.numel / w.cut, 1024);
      const auto cuts_no_row = [&](std::int64_t place) {
        return place % kLayoutBlock == 0 &&
               (place <= w.offset || place >= w.offset + w.numel || (place - w.offset) % w.cut == 0);
      };
      std::int64_t next = 0;
      for (const Slice& slice : u.slices) {
        ASSERT_EQ(slice.first, next);
        next = slice.end();
        EXPECT_TRUE(next == u.numel || cuts_no_row(next)) << next;
        for (const std::int64_t size : {std::int64_t{4096}, std::int64_t{65536}, std::int64_t{1} << 24}) {
          std::int64_t at = slice.first;
          for (const Slice& stretch : cut_stretches(u, slice, size)) {
            ASSERT_EQ(stretch.first, at);
            ASSERT_GT(stretch.count, 0);
            at = stretch.end();
            EXPECT_TRUE(at == slice.end() || cuts_no_row(at)) << at;
            EXPECT_LT(stretch.count, size + w.cut + kLayoutBlock);
          }
          EXPECT_EQ(at, slice.end());
        }
      }
      EXPECT_EQ(next, u.numel);
    }
}

TEST(Layout, AMatrixIsCutAsEvenlyAsItsRowsAllow) {
  const UnitLayout u = with_matrix(11008, 4096, 8);
  for (const Slice& slice : u.slices)
    EXPECT_NEAR(static_cast<double>(slice.count), static_cast<double>(u.numel) / 8,
                static_cast<double>(u.params[1].cut) + kLayoutBlock);
}

}  // namespace
}  // namespace strata
