// The picture of a step. Mutations that must fail: shift a row; draw a record's end one column too late.
#include "trainer/plan_timeline.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

constexpr std::int64_t kRecord = std::int64_t{1} << 20;

UpdateShape three_records_on_nvme() {
  UpdateShape shape;
  shape.units = 1;
  for (int r = 0; r < 3; ++r) {
    shape.records.push_back({0, {r * kRecord, kRecord}, kRecord});
    shape.placements.push_back({Tier::nvme, false});
  }
  return shape;
}

// Reads and writes of 1 s, updates of 2 s, and 3 s for the head. A column is a second. A window is read into again when its
// write is done, so the first reads run under the step before; the head waits for that one's last update.
TEST(PlanTimeline, DrawsReadsUpdatesAndWritesWhereTheyAre) {
  Rates rates;
  rates[Resource::nvme_read] = rates[Resource::nvme_write] = 8.0 * kRecord;
  rates[Resource::cpu_update] = kRecord / 2.0;
  rates[Resource::compute] = 1.0;
  const UpdatePlan plan = plan_updates(three_records_on_nvme(), {}, {.units = 1}, rates);
  EXPECT_EQ(format_timeline(plan, 13),
            "                  | norm\n"
            "compute        ...       \n"
            "cpu update        001122 \n"
            "nvme read   0 1 2        \n"
            "nvme write          0 1 2\n"
            "            13 s from the first operation to the last; digits: records, '.': units\n");
}

TEST(PlanTimeline, WithoutRatesThereIsNone) {
  EXPECT_EQ(format_timeline(plan_updates(three_records_on_nvme(), {}, {.units = 1}, {}), 80), "");
}

}  // namespace
}  // namespace strata
