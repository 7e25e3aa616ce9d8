#include <gtest/gtest.h>

#include <algorithm>

#include "kernel_testing.h"
#include "runtime/kernels/elementwise.h"
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

// The other kernel tests run every instruction set that there is; these say which there is not.
class EveryIsa : public ::testing::TestWithParam<Isa> {};

TEST_P(EveryIsa, RunsKernels) {
  const Isa before = active_isa();
  if (!set_isa(GetParam()).ok())
    GTEST_SKIP() << "this processor has no " << to_string(GetParam()) << ": its kernels are compiled, and were not run";
  testing::Array a = testing::normal(DType::bf16, {5, 37}, "a"), b = testing::normal(DType::bf16, {5, 37}, "b");
  testing::Array y(DType::bf16, {5, 37});
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  add({.a = a.ref(), .b = b.ref(), .y = y.ref()}, stream);
  testing::finish(stream);
  for (std::int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(y.at(i), testing::rounded(a.at(i) + b.at(i), DType::bf16)) << i;
  EXPECT_TRUE(set_isa(before).ok());
}

INSTANTIATE_TEST_SUITE_P(Isas, EveryIsa, ::testing::Values(Isa::generic, Isa::avx2, Isa::avx512),
                         [](const auto& test) { return to_string(test.param); });

}  // namespace
}  // namespace strata::kernels
