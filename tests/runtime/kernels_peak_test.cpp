#include <gtest/gtest.h>

#include "runtime/kernels/isa.h"
#include "runtime/kernels/peak.h"

namespace strata::kernels {
namespace {

// A loop that the compiler dropped, or one operation counted wrongly by a factor, would leave these bounds; a loaded machine
// stays inside.
TEST(PeakTest, RatesArePlausibleForEveryInstructionSet) {
  const Isa before = active_isa();
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    SCOPED_TRACE(to_string(isa));
    ASSERT_TRUE(set_isa(isa).ok());
    const PeakRates peak = measure_peak(pool);
    EXPECT_GT(peak.f32_gflops, 0.01);
    EXPECT_LT(peak.f32_gflops, 2 * 6.0 * 64 * 2);  // two threads, 6 GHz, 64 f32 operations a cycle at most, twice over
    if (isa != Isa::avx512) {
      EXPECT_EQ(peak.bf16_gflops, 0.0);
    }
    EXPECT_LT(peak.bf16_gflops, 4 * 6.0 * 64 * 2);
  }
  ASSERT_TRUE(set_isa(before).ok());
}

}  // namespace
}  // namespace strata::kernels
