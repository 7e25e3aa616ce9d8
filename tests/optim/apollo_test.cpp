// The numbers of a matrix between APOLLO's passes, and what is refused. Mutations caught: a limiter that lets norms grow
// by 1.1, that remembers the norm before limiting, that counts the scale where it comes later, that also limits the first step
// or a norm that falls; a floor that raises what is remembered.
#include "optim/apollo.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "low_rank_testing.h"
#include "optim/svd_projection.h"

namespace strata {
namespace {

using namespace low_rank_testing;  // NOLINT

ApolloSums update_of_norm(double norm) { return {.update = norm * norm, .g = norm * norm, .r = 1.0, .n = 1.0}; }

TEST(ApolloScaleTest, NormsGrowByOnePercentAStepAndFallFreely) {
  const ApolloConfig config{.scale = 4.0};
  ApolloMatrix matrix;
  EXPECT_EQ(apollo_scale(config, update_of_norm(2.0), matrix).factor,
            2.0);  // the first step is not limited; the root of the scale
  EXPECT_EQ(matrix.limiter_norm, 2.0);
  EXPECT_NEAR(apollo_scale(config, update_of_norm(200.0), matrix).factor, 2.0 * 2.02 / 200.0, 1e-9);
  EXPECT_NEAR(matrix.limiter_norm, 2.02, 1e-7);
  EXPECT_NEAR(apollo_scale(config, update_of_norm(200.0), matrix).factor, 2.0 * 2.0402 / 200.0, 1e-9);
  EXPECT_EQ(apollo_scale(config, update_of_norm(0.5), matrix).factor, 2.0);
  EXPECT_EQ(matrix.limiter_norm, 0.5);
}

TEST(ApolloScaleTest, TheScaleCountsForTheLimiterOnlyWhereItComesBefore) {
  ApolloMatrix front, back;
  (void)apollo_scale({.scale = 4.0, .scale_front = true}, update_of_norm(2.0), front);
  (void)apollo_scale({.scale = 4.0}, update_of_norm(2.0), back);
  EXPECT_EQ(front.limiter_norm, 4.0);
  EXPECT_EQ(back.limiter_norm, 2.0);
}

TEST(ApolloScaleTest, WithoutTheLimiterNothingIsRemembered) {
  ApolloMatrix matrix;
  EXPECT_EQ(apollo_scale({.limit_growth = false}, update_of_norm(2.0), matrix).factor, 1.0);
  EXPECT_EQ(apollo_scale({.limit_growth = false}, update_of_norm(200.0), matrix).factor, 1.0);
  EXPECT_LT(matrix.limiter_norm, 0.0);
}

TEST(ApolloScaleTest, TheTensorsFactorIsOfItsNorms) {
  ApolloMatrix matrix;
  const ApolloScale scale =
      apollo_scale({.scaling = ApolloScaling::tensor, .scale = 4.0}, {.update = 7.0, .g = 25.0, .r = 4.0, .n = 9.0}, matrix);
  EXPECT_NEAR(scale.tensor, 1.5, 1e-7);
  EXPECT_NEAR(scale.factor, 3.0, 1e-7);
  EXPECT_NEAR(matrix.limiter_norm, 7.5, 1e-6);
}

// After a first gradient of zero the norm may only grow by 1 % a step from 1e-8; a floor ends that.
TEST(ApolloScaleTest, AFirstGradientOfZeroLocksUpUnlessThereIsAFloor) {
  for (const double floor : {0.0, 1.0}) {
    ApolloMatrix matrix;
    const ApolloConfig config{.norm_floor = floor};
    EXPECT_EQ(apollo_scale(config, {}, matrix).factor, 1.0);
    EXPECT_EQ(matrix.limiter_norm, 0.0);
    int steps = 1;
    for (; steps < 5000 && apollo_scale(config, update_of_norm(1.0), matrix).factor < 1.0; ++steps) {
      if (floor == 0.0) {
        ASSERT_NEAR(matrix.limiter_norm, 1.01e-6 * (std::pow(1.01, steps) - 1.0), 1e-9 * matrix.limiter_norm);
      }
    }
    if (floor > 0.0) {
      EXPECT_EQ(steps, 1);
    } else {
      EXPECT_GT(steps, 1300);
      EXPECT_LT(steps, 1500);
    }
    EXPECT_EQ(matrix.limiter_norm, 1.0);
  }
}

TEST(ApolloScaleTest, ANormBelowTheFloorIsRememberedAsItIs) {
  ApolloMatrix matrix;
  (void)apollo_scale({.norm_floor = 1.0}, update_of_norm(0.25), matrix);
  EXPECT_EQ(matrix.limiter_norm, 0.25);
}

TEST(ApolloScaleTest, NaNStaysSeen) {
  ApolloMatrix matrix;
  (void)apollo_scale({}, update_of_norm(1.0), matrix);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(apollo_scale({}, {.update = nan}, matrix).factor));
  EXPECT_TRUE(std::isnan(apollo_scale({}, update_of_norm(1.0), matrix).factor));
}

TEST(ApolloTest, AGradientOfZeroMovesNothingButTheDecay) {
  Arrays a(3, 5, 2);
  a.fill(1, false);
  for (std::size_t i = 0; i < a.n_weights(); ++i) a.g.data()[i] = 0.0f, a.p.data()[i] = 2.0f;
  for (std::size_t i = 0; i < a.n_states(); ++i) a.m.data()[i] = a.v.data()[i] = 0.0f;
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(2)));
  const ApolloConfig config;
  const LowRankBlock block = a.block(0, 3, false, false);
  apollo_project(config, block, 1.0, a.results(0), workspace);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(a.s.data()[i], 0.0f);
  ApolloSums sums;
  add_rows(a.results(0), 3, sums);
  ApolloMatrix matrix;
  const ApplyScalars scalars =
      apollo_apply_scalars(config, apollo_scale(config, sums, matrix), {.lr = 0.5}, {.weight_decay = 0.5});
  apollo_apply(block, a.s.data(), a.weights(0, false, false), scalars);
  for (std::size_t i = 0; i < a.n_weights(); ++i) EXPECT_EQ(a.p.data()[i], 1.5f);
}

// The clip coefficient is folded in: gradients 4 x as large with a scale of 1/4 are the same gradients.
TEST(ApolloTest, TheGradScaleIsTheGradients) {
  Arrays a(9, 20, 4), b(9, 20, 4);
  for (Arrays* x : {&a, &b}) x->fill(3, false);
  for (std::size_t i = 0; i < b.n_weights(); ++i) b.g.data()[i] *= 4.0f;
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(4)));
  apollo_project({}, a.block(0, 9, false, false), 1.0, a.results(0), workspace);
  apollo_project({}, b.block(0, 9, false, false), 0.25, b.results(0), workspace);
  galore_update({}, a.block(0, 9, false, false), a.weights(0, false, false), {.lr = 0.1}, {}, workspace);
  galore_update({}, b.block(0, 9, false, false), b.weights(0, false, false), {.lr = 0.1, .grad_scale = 0.25}, {}, workspace);
  EXPECT_TRUE(same(b, a));
}

TEST(ApolloTest, RefusesAWorkspaceThatIsTooSmallAndStepsFromZero) {
  Arrays a(3, 5, 2);
  std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(2)) - 1);
  EXPECT_THROW(apollo_project({}, a.block(0, 3, false, false), 1.0, a.results(0), workspace), ContractViolation);
  EXPECT_THROW(galore_update({}, a.block(0, 3, false, false), a.weights(0, false, false), {}, {}, workspace),
               ContractViolation);
  EXPECT_THROW(apollo_apply_scalars({}, {}, {.number = 0}, {}), ContractViolation);
}

TEST(SvdProjectionTest, GivesTheLeadingVectorsLargestFirstWithAPositiveLargestElement) {
  // 3 |a> + 2 |b> of orthogonal directions.
  const float g[] = {3.0f, 0.0f, 0.0f, 0.0f, -1.2f, 1.6f, 0.0f, 0.0f, 0.0f};
  std::vector<double> gram(9);
  add_to_gram(g, 3, 3, gram);
  std::vector<float> projection(6);
  ASSERT_TRUE(svd_projection(gram, 3, 2, projection).ok());
  const float want[] = {1.0f, 0.0f, 0.0f, -0.6f, 0.0f, 0.8f};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(projection[i], want[i], 1e-6) << i;
}

TEST(SvdProjectionTest, SaysWhatItCannotDo) {
  std::vector<double> gram(4, 1.0);
  std::vector<float> projection(6);
  EXPECT_EQ(svd_projection(gram, 2, 3, projection).code(), Code::invalid_argument);
  gram[1] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(svd_projection(gram, 2, 2, std::span(projection).first(4)).code(), Code::numerical);
  gram[1] = 1.0, gram[2] = std::numeric_limits<double>::quiet_NaN();  // below the diagonal: nobody reads it
  EXPECT_TRUE(svd_projection(gram, 2, 2, std::span(projection).first(4)).ok());
}

}  // namespace
}  // namespace strata
