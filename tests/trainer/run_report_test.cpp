// The table at a run's end. Mutations that must fail: take the mean; count the first steps; swap two resources.
#include "trainer/run_report.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

StepMetrics step_of(double seconds) {
  StepMetrics m;
  m.step_seconds = seconds;
  m.busy.compute = 0.25;
  m.busy.cpu_update = 0.5;
  m.busy.nvme_read = 0.125;
  m.gpu_peak = 1 << 20;
  m.cpu_peak = 1 << 19;
  return m;
}

Plan plan_of() {
  Plan plan;
  plan.gpu.high_water = 1 << 20;
  plan.cpu.high_water = 1 << 20;
  return plan;
}

TEST(RunReport, ShowsMediansBesideWhatWasPlanned) {
  RunReport report;
  for (const double seconds : {9.0, 8.0, 1.0, 0.5, 3.0}) report.add(step_of(seconds));
  Plan plan = plan_of();
  plan.update.forecast.emplace();
  plan.update.forecast->step_seconds = 0.8;
  plan.update.forecast->busy[static_cast<std::size_t>(Resource::cpu_update)] = 0.4;
  EXPECT_EQ(report.format(plan),
            "\n                     planned    measured  median of the last 3 steps\n"
            "step                   0.8 s         1 s  1.25 x planned\n"
            "compute                  0 s      0.25 s\n"
            "cpu update             0.4 s       0.5 s\n"
            "nvme read                0 s     0.125 s\n"
            "gpu tier            1.00 MiB    1.00 MiB\n"
            "cpu tier            1.00 MiB   512.0 KiB\n");
}

TEST(RunReport, WithoutAForecastOnlyBytesArePlanned) {
  RunReport report;
  for (int i = 0; i < 3; ++i) report.add(step_of(2.0));
  const std::string text = report.format(plan_of());
  EXPECT_NE(text.find("step                       -         2 s\n"), std::string::npos) << text;
}

TEST(RunReport, KeepsTheLastThousandSteps) {
  RunReport report;
  for (int i = 0; i < 1600; ++i) report.add(step_of(1.0));
  for (int i = 0; i < 600; ++i) report.add(step_of(2.0));
  const std::string text = report.format(plan_of());
  EXPECT_NE(text.find("median of the last 1000 steps"), std::string::npos) << text;
  EXPECT_NE(text.find("step                       -         2 s\n"), std::string::npos) << text;
}

TEST(RunReport, SaysNothingOfWarmingUp) {
  RunReport report;
  report.add(step_of(1.0));
  report.add(step_of(1.0));
  EXPECT_EQ(report.format(plan_of()), "");
}

}  // namespace
}  // namespace strata
