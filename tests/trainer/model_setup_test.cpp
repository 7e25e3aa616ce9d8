// From a configuration to the engine's options.
#include "trainer/model_setup.h"

#include <gtest/gtest.h>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

TEST(EngineOptions, RatesThatAreNotGivenAreTheEmulatedOnes) {
  Config c = small_config("anywhere");
  c.device.emulate.h2d = 1000;
  c.device.emulate.d2h = 2000;
  c.device.rates.d2h = 3000;
  c.device.rates.compute_unit = 0.25;
  const EngineOptions options = engine_options(*resolve(c, WorldSize{1}, {.train = true}), Rank{0});
  EXPECT_EQ(options.optimizer.rates[Resource::cpu_to_gpu], 1000.0);
  EXPECT_EQ(options.optimizer.rates[Resource::gpu_to_cpu], 3000.0);
  EXPECT_EQ(options.optimizer.rates[Resource::compute], 4.0);
  EXPECT_EQ(options.optimizer.rates[Resource::nvme_read], 0.0);
  ASSERT_TRUE(options.emulate);
  EXPECT_EQ((*options.emulate)[Resource::gpu_to_cpu], 2000.0);
  EXPECT_EQ((*options.emulate)[Resource::compute], 0.0);
}

}  // namespace
}  // namespace strata
