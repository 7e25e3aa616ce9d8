// The sensors through a library that stands in for the driver's.
#include "runtime/gpu/nvml.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace strata {
namespace {

constexpr const char* kBus = "0000:3B:00.0";

class NvmlTest : public ::testing::Test {
 protected:
  ~NvmlTest() override { unsetenv("STRATA_FAKE_NVML"); }
};

TEST_F(NvmlTest, ReadsEverySensorInItsUnit) {
  const Result<Nvml> nvml = Nvml::open(kBus, STRATA_FAKE_NVML_LIBRARY);
  ASSERT_TRUE(nvml.ok()) << nvml.status().message();
  const Result<GpuReadings> r = nvml->read();
  ASSERT_TRUE(r.ok()) << r.status().message();
  EXPECT_EQ(r->utilization, 0.75);
  EXPECT_EQ(r->memory_utilization, 0.40);
  EXPECT_EQ(r->memory_used_bytes, std::size_t{24} << 30);
  EXPECT_EQ(r->power_watts, 312.5);
  EXPECT_EQ(r->temperature_celsius, 61);
  EXPECT_EQ(r->sm_clock_mhz, 1980);
  EXPECT_EQ(r->throttled, "power cap, heat") << "an idle GPU (bit 0) is not throttled";
}

TEST_F(NvmlTest, ASensorThatTheDeviceLacksIsAbsent) {
  const Result<Nvml> nvml = Nvml::open(kBus, STRATA_FAKE_NVML_LIBRARY);
  ASSERT_TRUE(nvml.ok());
  setenv("STRATA_FAKE_NVML", "no sensors", 1);
  const Result<GpuReadings> r = nvml->read();
  ASSERT_TRUE(r.ok()) << r.status().message();
  EXPECT_EQ(r->memory_used_bytes, 20u);
  EXPECT_FALSE(r->utilization || r->memory_utilization || r->power_watts || r->temperature_celsius || r->sm_clock_mhz ||
               r->throttled);
}

TEST_F(NvmlTest, ALostGpuIsAnErrorInTheLibrarysWords) {
  const Result<Nvml> nvml = Nvml::open(kBus, STRATA_FAKE_NVML_LIBRARY);
  ASSERT_TRUE(nvml.ok());
  setenv("STRATA_FAKE_NVML", "lost", 1);
  const Result<GpuReadings> r = nvml->read();
  EXPECT_EQ(r.status().code(), Code::internal);
  EXPECT_NE(r.status().message().find("GPU is lost"), std::string::npos) << r.status().message();
}

TEST_F(NvmlTest, AnUnknownGpuAndAMissingLibraryAreErrorsThatNameThem) {
  const Status unknown = Nvml::open("0000:4C:00.0", STRATA_FAKE_NVML_LIBRARY).status();
  EXPECT_NE(unknown.message().find("0000:4C:00.0"), std::string::npos) << unknown.message();
  EXPECT_NE(unknown.message().find("Not Found"), std::string::npos) << unknown.message();
  const Status missing = Nvml::open(kBus, "libnvidia-ml-that-nobody-has.so.1").status();
  EXPECT_EQ(missing.code(), Code::unsupported);
  EXPECT_NE(missing.message().find("libnvidia-ml-that-nobody-has.so.1"), std::string::npos) << missing.message();
}

}  // namespace
}  // namespace strata
