// Every body of APOLLO's and GaLore's passes gives the bits of the formulas in low_rank.h, apollo.h and galore.h, whatever the
// shape, alignment and cutting into rows. Mutations caught: a product and a sum instead of fma in one body, a sum that starts
// anew at a strip of the inner dim, a mask of the last columns one off, squares of what is behind a row's end, NaN not
// canonicalised, s rounded before the division, moments of another row, in-place results where others were asked for.
#include <gtest/gtest.h>

#include <iterator>
#include <limits>
#include <span>

#include "low_rank_testing.h"
#include "optim/svd_projection.h"
#include "runtime/kernels/isa.h"

namespace strata {
namespace {

using namespace low_rank_testing;  // NOLINT
using update_testing::kDecays;
using update_testing::kStep;

struct Size {
  std::int64_t rows, columns, rank;
};
constexpr Size kSizes[] = {{0, 5, 2},    {1, 1, 1},    {3, 2, 5},     {7, 3, 1},     {6, 15, 3},    {13, 16, 4},
                           {12, 17, 15}, {9, 127, 16}, {95, 128, 17}, {96, 129, 31}, {97, 33, 64},  {5, 130, 65},
                           {8, 257, 33}, {20, 64, 1},  {11, 65, 129}, {4, 20, 200},  {193, 48, 32}, {2, 300, 70}};

struct Variant {
  ApolloScaling scaling;
  bool gradient16, with16, elsewhere, any;
  std::size_t offset;
};
constexpr Variant kVariants[] = {{ApolloScaling::channel, false, true, false, true, 0},
                                 {ApolloScaling::channel, true, false, true, true, 3},
                                 {ApolloScaling::tensor, false, false, true, false, 1},
                                 {ApolloScaling::tensor, true, true, false, false, 5},
                                 {ApolloScaling::channel, false, true, true, false, 2}};

std::span<const Variant> variants() { return std::span(kVariants).first(testing::kSanitized ? 2 : std::size(kVariants)); }

ApolloConfig config_of(const Variant& variant) { return {.scaling = variant.scaling, .scale = 3.0}; }

class LowRankBits : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

void apollo_by(std::int64_t cut, Arrays& a, const Variant& v) {
  const ApolloConfig config = config_of(v);
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(a.rank)), std::nanf(""));
  ApolloSums sums;
  for (std::int64_t i = 0; i < a.rows; i += cut) {
    const std::int64_t n = std::min(cut, a.rows - i);
    apollo_project(config, a.block(i, n, v.gradient16, v.elsewhere), kStep.grad_scale, a.results(i), workspace);
    add_rows(a.results(i), n, sums);
  }
  ApolloMatrix matrix;
  const ApplyScalars scalars = apollo_apply_scalars(config, apollo_scale(config, sums, matrix), kStep, kDecays);
  for (std::int64_t i = 0; i < a.rows; i += cut)
    apollo_apply(a.block(i, std::min(cut, a.rows - i), v.gradient16, v.elsewhere),
                 v.scaling == ApolloScaling::channel ? a.s.data() + i : nullptr, a.weights(i, v.with16, v.elsewhere), scalars);
}

void galore_by(std::int64_t cut, Arrays& a, const Variant& v) {
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(a.rank)), std::nanf(""));
  for (std::int64_t i = 0; i < a.rows; i += cut)
    galore_update({}, a.block(i, std::min(cut, a.rows - i), v.gradient16, v.elsewhere), a.weights(i, v.with16, v.elsewhere),
                  kStep, kDecays, workspace);
}

TEST_P(LowRankBits, ApolloIsTheWrittenSequenceForAnyShapeAndCut) {
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const Variant& v : variants()) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", variant "
                                        << &v - variants().data());
      Arrays want(rows, columns, rank);
      want.fill(static_cast<std::uint64_t>(rank), v.any);
      reference_apollo(config_of(v), want.block(0, rows, v.gradient16, v.elsewhere), want.results(0),
                       want.weights(0, v.with16, v.elsewhere), kStep, kDecays);
      for (const std::int64_t cut : {std::int64_t{1000}, std::int64_t{5}}) {
        Arrays got(rows, columns, rank, v.offset);
        got.fill(static_cast<std::uint64_t>(rank), v.any);
        apollo_by(cut, got, v);
        ASSERT_TRUE(same(got, want)) << "cut " << cut;
      }
    }
  }
}

TEST_P(LowRankBits, GaloreIsTheWrittenSequenceForAnyShapeAndCut) {
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const Variant& v : variants()) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", variant "
                                        << &v - variants().data());
      Arrays want(rows, columns, rank);
      want.fill(static_cast<std::uint64_t>(rank), v.any);
      reference_galore({}, want.block(0, rows, v.gradient16, v.elsewhere), want.weights(0, v.with16, v.elsewhere), kStep,
                       kDecays);
      for (const std::int64_t cut : {std::int64_t{1000}, std::int64_t{5}}) {
        Arrays got(rows, columns, rank, v.offset);
        got.fill(static_cast<std::uint64_t>(rank), v.any);
        galore_by(cut, got, v);
        ASSERT_TRUE(same(got, want)) << "cut " << cut;
      }
    }
  }
}

TEST_P(LowRankBits, KeepDenormals) {
  const float g = 0x1p-140f, projection = 1.0f;
  float m = 0x1p-148f, v = 0.0f, s = 0.0f;
  double squares[3] = {};
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(1)));
  apollo_project({}, {.rows = 1, .columns = 1, .rank = 1, .g = &g, .projection = &projection, .m = &m, .v = &v}, 1.0,
                 {&s, &squares[0], &squares[1], &squares[2]}, workspace);
  EXPECT_EQ(m, 0x1.a8p-144f);  // a tenth of 510 units in the last place, and two: rounded once
  EXPECT_EQ(squares[0], 0x1p-280);
  EXPECT_EQ(squares[1], 0x1p-280);
  EXPECT_GT(s, 0.0f);
}

// Vectors are longer than the row: what is computed beside it (0 / 0, 0 * infinity) is in no sum.
TEST_P(LowRankBits, NothingBesideARowIsInItsSums) {
  const float g = 2.0f, projection = 1.0f;
  float m = 0.0f, v = 0.0f, s = 0.0f;
  double squares[3] = {};
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(1)));
  const LowRankBlock block{.rows = 1, .columns = 1, .rank = 1, .g = &g, .projection = &projection, .m = &m, .v = &v};
  const RowResults results{&s, &squares[0], &squares[1], &squares[2]};
  apollo_project({.beta2 = 0.0, .eps = 0.0}, block, 1.0, results, workspace);
  EXPECT_EQ(squares[1], 4.0);
  EXPECT_NEAR(squares[2], 0.01, 1e-8);
  apollo_project({}, block, std::numeric_limits<double>::infinity(), results, workspace);
  EXPECT_EQ(squares[0], std::numeric_limits<double>::infinity());
  EXPECT_EQ(squares[1], std::numeric_limits<double>::infinity());
}

TEST_P(LowRankBits, GramMatricesDoNotDependOnCuttingNorOnTheProcessor) {
  for (const std::int64_t columns : {1, 3, 4, 15, 16, 17, 37, 64}) {
    Arrays a(100, columns, 1);
    a.fill(7, false);
    std::vector<double> want(static_cast<std::size_t>(columns * columns)), want16 = want;
    for (std::int64_t i = 0; i < columns; ++i) {
      for (std::int64_t j = i; j < columns; ++j) {
        const auto at = static_cast<std::size_t>(i * columns + j);
        for (std::int64_t row = 0; row < a.rows; ++row) {
          const float* g = a.g.data() + row * columns;
          const bf16* g16 = a.g16.data() + row * columns;
          want[at] += static_cast<double>(g[i]) * static_cast<double>(g[j]);
          want16[at] += static_cast<double>(to_float(g16[i])) * static_cast<double>(to_float(g16[j]));
        }
      }
    }
    for (const std::int64_t cut : {1, 33, 100}) {
      std::vector<double> gram(want.size()), gram16(want.size());
      for (std::int64_t row = 0; row < a.rows; row += cut) {
        const std::int64_t n = std::min(cut, a.rows - row);
        add_to_gram(a.g.data() + row * columns, n, columns, gram);
        add_to_gram(a.g16.data() + row * columns, n, columns, gram16);
      }
      for (std::int64_t i = 0; i < columns; ++i) {
        for (std::int64_t j = i; j < columns; ++j) {
          const auto at = static_cast<std::size_t>(i * columns + j);
          ASSERT_EQ(bits(gram[at]), bits(want[at])) << columns << " columns, cut " << cut << ", " << i << ", " << j;
          ASSERT_EQ(bits(gram16[at]), bits(want16[at])) << columns << " columns, cut " << cut << ", " << i << ", " << j;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, LowRankBits, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& tested) { return std::string(kernels::to_string(tested.param)); });

}  // namespace
}  // namespace strata
