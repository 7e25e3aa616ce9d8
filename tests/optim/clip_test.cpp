// Clipping against torch.nn.utils.clip_grad_norm_ (tests/oracle/make_adamw_vectors.py).
// Mutations caught: no 1e-6, 1 whenever norm <= max_norm (torch shrinks at equality), NaN turned into 1, sum in f32.
#include "optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace strata {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(ClipCoefficient, EqualsPyTorch) {
  std::ifstream in(std::string(STRATA_SOURCE_DIR) + "/tests/optim/vectors/clip.txt");
  std::string norm, max_norm, expected;
  int lines = 0;
  for (; in >> norm >> max_norm >> expected; ++lines)
    EXPECT_NEAR(clip_coefficient(std::stod(norm), std::stod(max_norm)), std::stod(expected), 1e-12) << norm << ' ' << max_norm;
  EXPECT_EQ(lines, 24);
}

TEST(ClipCoefficient, IsOneWhenOff) {
  for (const double off : {0.0, -1.0}) {
    EXPECT_EQ(clip_coefficient(100.0, off), 1.0);
    EXPECT_EQ(clip_coefficient(kInfinity, off), 1.0);
  }
}

TEST(ClipCoefficient, ShrinksAtEquality) {
  EXPECT_EQ(clip_coefficient(1.0, 1.0), 1.0 / (1.0 + 1e-6));
  EXPECT_EQ(clip_coefficient(0.0, 1.0), 1.0);
}

TEST(ClipCoefficient, PassesOnWhatIsNotFinite) {
  EXPECT_TRUE(std::isnan(clip_coefficient(std::numeric_limits<double>::quiet_NaN(), 1.0)));
  EXPECT_EQ(clip_coefficient(kInfinity, 1.0), 0.0);
}

TEST(GlobalNorm, IsTheRootOfTheSum) {
  EXPECT_EQ(global_norm({}), 0.0);
  const std::vector<double> partials = {9.0, 16.0};
  EXPECT_EQ(global_norm(partials), 5.0);
}

TEST(GlobalNorm, AddsInIndexOrderInDouble) {
  const std::vector<double> up = {1e16, 1.0, 1.0}, down = {1.0, 1.0, 1e16};
  EXPECT_EQ(global_norm(up), std::sqrt(1e16 + 1.0 + 1.0));
  EXPECT_EQ(global_norm(down), std::sqrt(1.0 + 1.0 + 1e16));
  const std::vector<double> fine = {1.0, 0x1p-40};
  EXPECT_GT(global_norm(fine), 1.0);
}

}  // namespace
}  // namespace strata
