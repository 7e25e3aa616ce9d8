#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/kernels/isa.h"

namespace strata::kernels {
namespace {

TEST(Isa, GenericIsAlwaysAvailable) {
  ASSERT_FALSE(available_isas().empty());
  EXPECT_EQ(available_isas().front(), Isa::generic);
  EXPECT_TRUE(std::is_sorted(available_isas().begin(), available_isas().end()));
}

TEST(Isa, SelectsWhatIsAvailableAndRefusesTheRest) {
  const Isa before = active_isa();
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512}) {
    const bool available = std::count(available_isas().begin(), available_isas().end(), isa) > 0;
    const Status status = set_isa(isa);
    EXPECT_EQ(status.ok(), available);
    if (available)
      EXPECT_EQ(active_isa(), isa);
    else
      EXPECT_NE(status.message().find(to_string(isa)), std::string::npos);
  }
  EXPECT_TRUE(set_isa(before).ok());
}

}  // namespace
}  // namespace strata::kernels
