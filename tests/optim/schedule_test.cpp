// Schedules against closed forms, at and around every edge.
// Mutations caught: warm-up from step 0 or to warmup + 1, decay one step early, min_lr ignored, wsd decay over the whole run.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace strata {
namespace {

constexpr double kPeak = 3e-4, kFloor = 3e-5;

Schedule schedule(ScheduleKind kind, std::int64_t warmup, std::int64_t total, std::int64_t decay = 0) {
  return {.kind = kind, .lr = kPeak, .min_lr = kFloor, .warmup_steps = warmup, .total_steps = total, .decay_steps = decay};
}

TEST(LearningRate, EveryKindWarmsUpLinearlyAndReachesThePeakAtTheLastWarmupStep) {
  for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const Schedule s = schedule(kind, 10, 100, 20);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1), kPeak * 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(s, 9), kPeak * 0.9);
    EXPECT_DOUBLE_EQ(learning_rate(s, 10), kPeak);
  }
}

TEST(LearningRate, WithoutWarmupThereIsNone) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule(ScheduleKind::constant, 0, 0), 1), kPeak);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(ScheduleKind::constant, 0, 0), 1000000), kPeak);
  EXPECT_DOUBLE_EQ(learning_rate(schedule(ScheduleKind::linear, 0, 100), 0), kPeak);
}

TEST(LearningRate, LinearFallsInEqualStepsToTheFloor) {
  const Schedule s = schedule(ScheduleKind::linear, 10, 100);
  EXPECT_DOUBLE_EQ(learning_rate(s, 11), kPeak - (kPeak - kFloor) / 90);
  EXPECT_DOUBLE_EQ(learning_rate(s, 55), (kPeak + kFloor) / 2);
  EXPECT_GT(learning_rate(s, 99), kFloor);
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), kFloor);
  EXPECT_DOUBLE_EQ(learning_rate(s, 101), kFloor);
}

TEST(LearningRate, CosineFollowsHalfAPeriod) {
  const Schedule s = schedule(ScheduleKind::cosine, 10, 100);
  for (const std::int64_t step : {11, 40, 55, 99}) {
    const double x = static_cast<double>(step - 10) / 90.0;
    EXPECT_DOUBLE_EQ(learning_rate(s, step), kFloor + (kPeak - kFloor) * 0.5 * (1 + std::cos(std::numbers::pi * x)));
  }
  EXPECT_DOUBLE_EQ(learning_rate(s, 55), (kPeak + kFloor) / 2);
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), kFloor);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1000), kFloor);
}

TEST(LearningRate, WsdStaysAtThePeakUntilItsDecayPhase) {
  const Schedule s = schedule(ScheduleKind::wsd, 10, 100, 20);
  for (const std::int64_t step : {10, 11, 79, 80}) EXPECT_DOUBLE_EQ(learning_rate(s, step), kPeak) << step;
  EXPECT_DOUBLE_EQ(learning_rate(s, 81), kPeak - (kPeak - kFloor) / 20);
  EXPECT_DOUBLE_EQ(learning_rate(s, 90), (kPeak + kFloor) / 2);
  EXPECT_GT(learning_rate(s, 99), kFloor);
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), kFloor);
}

TEST(LearningRate, WsdWhoseDecayWouldBeginInsideTheWarmupBeginsAfterIt) {
  const Schedule s = schedule(ScheduleKind::wsd, 50, 100, 80);
  EXPECT_DOUBLE_EQ(learning_rate(s, 49), kPeak * 0.98);
  EXPECT_DOUBLE_EQ(learning_rate(s, 50), kPeak);
  EXPECT_DOUBLE_EQ(learning_rate(s, 75), (kPeak + kFloor) / 2);
}

TEST(LearningRate, WsdWithoutDecayStepsNeverExceedsThePeakAndEndsAtTheFloor) {
  const Schedule s = schedule(ScheduleKind::wsd, 10, 100, 0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 99), kPeak);
  EXPECT_DOUBLE_EQ(learning_rate(s, 100), kFloor);
}

TEST(LearningRate, ARunThatEndsWithItsWarmupIsDefined) {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const Schedule s = schedule(kind, 10, 10, 5);
    EXPECT_DOUBLE_EQ(learning_rate(s, 9), kPeak * 0.9);
    EXPECT_DOUBLE_EQ(learning_rate(s, 10), kFloor);
    EXPECT_DOUBLE_EQ(learning_rate(s, 11), kFloor);
  }
}

}  // namespace
}  // namespace strata
