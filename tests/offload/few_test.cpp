#include "offload/few.h"

#include <gtest/gtest.h>

#include <vector>

namespace strata {
namespace {

std::vector<int> values_of(const Few& few) { return {few.begin(), few.end()}; }

TEST(Few, HoldsUpToFourValuesInTheirOrder) {
  Few few;
  EXPECT_TRUE(few.empty());
  std::vector<int> expected;
  for (const int value : {7, 3, 9, 3}) {
    few.push_back(value);
    expected.push_back(value);
    EXPECT_EQ(values_of(few), expected);
    EXPECT_EQ(few.size(), expected.size());
  }
  EXPECT_THROW(few.push_back(1), ContractViolation);
  EXPECT_EQ(values_of(few), expected);
  few = {5};
  EXPECT_EQ(values_of(few), std::vector<int>{5});
}

}  // namespace
}  // namespace strata
