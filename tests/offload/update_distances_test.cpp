// Distances of the updates of a model's middle unit, of which ranks have parts and records parts of those. Mutations that must
// fail: a rank's own sum; padding that counts as elements; a sum that is left from an update before, or from one that was
// dropped; parameters compared with those of a later record.
#include "offload/update_distances.h"

#include <gtest/gtest.h>

#include <cmath>

namespace strata {
namespace {

constexpr std::int64_t kA = 70, kB = 9000;  // parameters of each unit, with padding between them and behind

StateLayout layout_of(int world) {
  StateLayout layout;
  layout.world = WorldSize{world};
  for (const char* unit : {"first", "second", "third"})
    layout.units.push_back(
        layout_unit(unit, {{std::string(unit) + ".a", kA, 0}, {std::string(unit) + ".b", kB, 0}}, layout.world));
  return layout;
}

float value(std::int64_t i) { return 0.01f * static_cast<float>(i % 83 - 41); }  // some are zero
float updated(std::int64_t i, int number) { return value(i) * (1.0f + 1e-3f * static_cast<float>((i * number) % 7)); }

// Elements of a unit with padding, which stays zero.
std::vector<float> unit_values(const UnitLayout& unit, int number) {
  std::vector<float> values(static_cast<std::size_t>(unit.numel), 0.0f);
  for (const ParamExtent& param : unit.params)
    for (std::int64_t i = 0; i < param.numel; ++i)
      values[static_cast<std::size_t>(param.offset + i)] = number == 0 ? value(i) : updated(i, number);
  return values;
}

double distance_of(int number) {
  double sum = 0.0;
  for (const std::int64_t n : {kA, kB})
    for (std::int64_t i = 0; i < n; ++i) {
      const float before = value(i), after = updated(i, number);
      if (before != 0.0f) sum += std::nearbyint(static_cast<double>(std::fabs((before - after) / before)) * 0x1p30);
    }
  return sum / (static_cast<double>(kA + kB) * 0x1p30);
}

struct OneRank {
  OneRank(int world, int rank, std::int64_t record_size) : layout(layout_of(world)) {
    for (std::size_t u = 0; u < layout.units.size(); ++u) {
      const Slice mine = layout.units[u].slices[static_cast<std::size_t>(rank)];
      for (std::int64_t at = mine.first; at < mine.end(); at += record_size) {
        OptimizerRecord record;
        record.unit = static_cast<int>(u);
        record.range = {at, std::min(record_size, mine.end() - at)};
        records.push_back(record);
      }
    }
    EXPECT_TRUE(distances.allocate(records, {0, 1, 0}, std::vector<char>(records.size(), 0), gpu, cpu).ok());
  }

  // Of the second unit's records, the first `count`.
  void update(int number, std::size_t count = 100) {
    for (std::size_t r = 0; r < records.size() && count > 0; ++r) {
      if (records[r].unit != 1) continue;
      --count;
      const Slice range = records[r].range;
      float* const p = values.data() + range.first;
      const float* const before = distances.keep(r, p, stream);
      EXPECT_NE(before, p);
      const std::vector<float> now = unit_values(layout.units[1], number);
      stream.ref().enqueue("update", [p, range, now] {
        std::copy_n(now.begin() + range.first, range.count, p);
        return Status();
      });
      distances.compare(r, before, p, stream);
    }
  }
  void reset() {
    EXPECT_TRUE(stream.ref().synchronize().ok());
    values = unit_values(layout.units[1], 0);
  }

  StateLayout layout;
  Device device{Backend::host, 1};
  TierArena gpu{Tier::gpu, std::size_t{1} << 20}, cpu{Tier::cpu, std::size_t{1} << 20};
  Stream stream{device, "cpu update"};
  std::vector<OptimizerRecord> records;
  UpdateDistances distances{layout, stream, stream, stream};
  std::vector<float> values = unit_values(layout.units[1], 0);
};

TEST(UpdateDistances, AreThoseOfWholeUnitsHoweverTheyAreShared) {
  for (const int world : {1, 2, 3})
    for (const std::int64_t record_size : {4096, 1 << 20}) {
      SCOPED_TRACE(std::to_string(world) + " ranks, records of " + std::to_string(record_size));
      std::vector<std::vector<std::byte>> told;
      // Each rank tells its part; what they all hear is known when the last one has.
      for (int rank = 0; rank < world; ++rank) {
        OneRank one(world, rank, record_size);
        one.update(3);
        const ByteExchange exchange = [&](std::span<const std::byte> mine) {
          told.emplace_back(mine.begin(), mine.end());
          return Result<std::vector<std::vector<std::byte>>>(told);
        };
        const auto distances = one.distances.take(&exchange);
        ASSERT_TRUE(distances.ok());
        if (rank + 1 < world) continue;
        EXPECT_EQ(*distances, (std::vector<double>{0.0, distance_of(3), 0.0}));
      }
    }
}

TEST(UpdateDistances, AreOfTheLastUpdateThatWasNotDropped) {
  OneRank one(1, 0, 4096);
  one.update(1);
  one.reset();
  one.update(2);  // the same step's, done again
  EXPECT_EQ(one.distances.take(nullptr).value(), (std::vector<double>{0.0, distance_of(2), 0.0}));
  EXPECT_EQ(one.distances.take(nullptr).value(), (std::vector<double>{0.0, 0.0, 0.0})) << "they are taken once";
  one.reset();
  one.update(5, 1);
  one.distances.forget();
  EXPECT_EQ(one.distances.take(nullptr).value(), (std::vector<double>{0.0, 0.0, 0.0}));
}

}  // namespace
}  // namespace strata
