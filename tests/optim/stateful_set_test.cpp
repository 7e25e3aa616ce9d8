// Which elements have states, where these lie, and the draw. Mutations caught: a place that counts the element itself, a row
// that begins at the states of the one before, the words' last one missing, bits of the next row shifted by one, a draw that
// leaves out equal words, that depends on no name or no refresh, or that takes one number too many.
#include "optim/stateful_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "frugal_testing.h"
#include "optim/stateful_walk.h"
#include "runtime/status.h"

namespace strata {
namespace {

using frugal_testing::Matrix;

struct Shape {
  std::int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 5}, {5, 31}, {5, 32}, {5, 33}, {33, 2}, {2, 64}, {64, 3}, {7, 100}, {100, 7}};

struct Mine;

TEST(StatefulSetTest, CountsTheStatesBeforeEveryElement) {
  for (const StatefulKind kind : frugal_testing::kKinds) {
    for (const auto& [rows, columns] : kShapes) {
      for (const double density : {0.0, 0.25, 1.0}) {
        const Matrix matrix = Matrix::random(kind, rows, columns, density, 5);
        SCOPED_TRACE(::testing::Message() << static_cast<int>(kind) << ": " << rows << " x " << columns << ", " << density);
        std::int64_t before = 0;
        for (std::int64_t e = 0; e <= matrix.size(); ++e) {
          ASSERT_EQ(states_before(matrix.set.map(), e), before) << "element " << e;
          if (e < matrix.size()) before += matrix.has[static_cast<std::size_t>(e)];
        }
        ASSERT_EQ(matrix.set.states(), before);
      }
    }
  }
}

TEST(StatefulSetTest, TheStatesOfAMatrixLieAsTheContractSays) {
  const std::vector<std::int64_t> chosen = {40, 3, 33};
  const StatefulSet columns = StatefulSet::of(StatefulKind::columns, 4, 50, chosen);
  EXPECT_EQ(states_before(columns.map(), 2 * 50 + 33), 2 * 3 + 1);
  EXPECT_EQ(states_before(columns.map(), 2 * 50 + 34), 2 * 3 + 2);
  EXPECT_EQ(columns.states(), 12);
  const StatefulSet rows = StatefulSet::of(StatefulKind::rows, 50, 4, chosen);
  EXPECT_EQ(states_before(rows.map(), 33 * 4 + 2), 4 + 2);
  EXPECT_EQ(states_before(rows.map(), 34 * 4 + 2), 8);
  const StatefulSet entries = StatefulSet::of(StatefulKind::entries, 5, 10, chosen);
  EXPECT_EQ(states_before(entries.map(), 40), 2);
  EXPECT_EQ(states_before(entries.map(), 41), 3);
}

TEST(StatefulSetTest, AWalkGivesTheBitsOfEveryPieceFromEveryElement) {
  for (const StatefulKind kind : frugal_testing::kKinds) {
    for (const auto& [rows, columns] : kShapes) {
      const Matrix matrix = Matrix::random(kind, rows, columns, 0.4, 6);
      SCOPED_TRACE(::testing::Message() << static_cast<int>(kind) << ": " << rows << " x " << columns);
      for (const int piece : {1, 2, 7, 8, 16, 31, 32}) {
        for (std::int64_t begin = 0; begin < matrix.size(); ++begin) {
          StatefulWalk<Mine> walk(matrix.set.map(), begin);
          ASSERT_EQ(walk.before(), matrix.before(begin));
          for (std::int64_t e = begin; e < std::min(matrix.size(), begin + 3 * piece); e += piece) {
            const int n = static_cast<int>(std::min<std::int64_t>(piece, matrix.size() - e));
            std::uint32_t want = 0;
            for (int k = 0; k < n; ++k) want |= static_cast<std::uint32_t>(matrix.has[static_cast<std::size_t>(e + k)]) << k;
            ASSERT_EQ(walk.next(n), want) << "from " << begin << " at " << e << ", " << n;
          }
        }
      }
    }
  }
}

TEST(StatefulSetTest, WordsCanBeCopiedElsewhere) {
  const Matrix matrix = Matrix::random(StatefulKind::columns, 5, 70, 0.3, 7);
  const std::vector<StatefulWord> copy(matrix.set.words().begin(), matrix.set.words().end());
  const StatefulMap map = matrix.set.map(copy.data());
  EXPECT_EQ(map.words, copy.data());
  EXPECT_EQ(states_before(map, 349), matrix.before(349));
  EXPECT_TRUE(StatefulSet::all(5, 70).words().empty());
}

TEST(StatefulSetTest, RefusesWhatIsNotInTheMatrixOrChosenTwice) {
  const auto of = [](std::vector<std::int64_t> chosen) { return StatefulSet::of(StatefulKind::columns, 2, 5, chosen); };
  EXPECT_EQ(of({4, 0}).states(), 4);
  EXPECT_THROW(of({5}), ContractViolation);
  EXPECT_THROW(of({-1}), ContractViolation);
  EXPECT_THROW(of({2, 2}), ContractViolation);
  EXPECT_THROW((void)draw_numbers(5, 6, {}), ContractViolation);
}

// Golden: another choice would change the results of every run.
TEST(DrawTest, IsThisChoice) {
  EXPECT_EQ(draw_numbers(20, 5, {.seed = 1, .name = "layers.0.mlp.up_proj.weight", .refresh = 0}),
            (std::vector<std::int64_t>{1, 4, 5, 7, 15}));
}

TEST(DrawTest, TakesExactlyAsManyDifferentNumbers) {
  for (const std::int64_t n : {0, 1, 2, 31, 32, 33, 1000, 100000}) {
    for (const std::int64_t count : {std::int64_t{0}, n / 7, n / 2, n - 1, n}) {
      if (count < 0) continue;
      const std::vector<std::int64_t> numbers = draw_numbers(n, count, {.seed = 3, .name = "w"});
      ASSERT_EQ(std::ssize(numbers), count) << n;
      for (std::size_t i = 0; i < numbers.size(); ++i)
        ASSERT_TRUE(numbers[i] < n && (i == 0 ? numbers[i] >= 0 : numbers[i - 1] < numbers[i]));
    }
  }
}

TEST(DrawTest, DependsOnSeedNameAndRefreshAndOnNothingElse) {
  const auto draw = [](const StatefulKey& key) { return draw_numbers(1000, 250, key); };
  const auto first = draw({.seed = 3, .name = "w", .refresh = 1});
  EXPECT_EQ(draw({.seed = 3, .name = "w", .refresh = 1}), first);
  for (const StatefulKey& other : {StatefulKey{4, "w", 1}, StatefulKey{3 + (std::uint64_t{1} << 40), "w", 1},
                                   StatefulKey{3, "v", 1}, StatefulKey{3, "w", 2}}) {
    const auto second = draw(other);
    std::vector<std::int64_t> both;
    std::set_intersection(first.begin(), first.end(), second.begin(), second.end(), std::back_inserter(both));
    EXPECT_NEAR(static_cast<double>(both.size()), 62.5, 35.0);  // 62.5 +- 6
  }
}

TEST(DrawTest, ColumnsAreTheNumbersDrawn) {
  const StatefulKey key{.seed = 9, .name = "w", .refresh = 4};
  const StatefulSet drawn = StatefulSet::draw(StatefulKind::columns, 40, 7000, 2333, key);
  const StatefulSet listed = StatefulSet::of(StatefulKind::columns, 40, 7000, draw_numbers(7000, 2333, key));
  EXPECT_TRUE(std::equal(drawn.words().begin(), drawn.words().end(), listed.words().begin(), listed.words().end()));
}

TEST(DrawTest, RowsAndEntriesHaveTheirPartOfEveryLayer) {
  for (const double density : {0.0, 0.013, 0.25, 0.999, 1.0}) {
    const std::int64_t rows = 1000, columns = 37;
    const auto of_rows = static_cast<std::int64_t>(density * 1000.0), entries = static_cast<std::int64_t>(density * 37000.0);
    for (std::int64_t refresh = 0; refresh < 3; ++refresh) {
      const StatefulKey key{.seed = 9, .name = "w", .refresh = refresh};
      const StatefulSet by_row = StatefulSet::draw(StatefulKind::rows, rows, columns, of_rows, key);
      const StatefulSet by_entry = StatefulSet::draw(StatefulKind::entries, rows, columns, entries, key);
      EXPECT_EQ(by_row.states(), of_rows * columns);
      EXPECT_EQ(by_entry.states(), entries);
      for (std::int64_t row = 0; row < rows; row += 64)
        ASSERT_EQ(states_before(by_row.map(), row * columns), of_rows * row / rows * columns) << row;
      for (std::int64_t entry = 0; entry < rows * columns; entry += 4096)
        ASSERT_EQ(states_before(by_entry.map(), entry), entries * entry / (rows * columns)) << entry;
    }
  }
}

TEST(DrawTest, NoRangeHasMoreThanTheMost) {
  struct Case {
    StatefulKind kind;
    std::int64_t rows, columns, count;
  };
  for (const auto& [kind, rows, columns, count] :
       {Case{StatefulKind::columns, 9, 50, 13}, Case{StatefulKind::rows, 200, 3, 50}, Case{StatefulKind::rows, 70, 5, 69},
        Case{StatefulKind::entries, 100, 100, 2500}, Case{StatefulKind::entries, 7, 11, 0}}) {
    const std::int64_t n = rows * columns;
    EXPECT_EQ(StatefulSet::most_drawn(kind, rows, columns, count, 0, n),
              StatefulSet::draw(kind, rows, columns, count, {}).states());
    std::vector<StatefulSet> sets;
    for (std::int64_t refresh = 0; refresh < 30; ++refresh)
      sets.push_back(StatefulSet::draw(kind, rows, columns, count, {.seed = 1, .name = "w", .refresh = refresh}));
    bool reached = false;
    for (std::int64_t first = 0; first < n; first += 1 + n / 97) {
      for (const std::int64_t length : {std::int64_t{0}, std::int64_t{1}, columns, n / 3, n - first}) {
        const std::int64_t end = std::min(n, first + length);
        const std::int64_t most = StatefulSet::most_drawn(kind, rows, columns, count, first, end - first);
        ASSERT_LE(most, end - first);
        for (const StatefulSet& set : sets) {
          const std::int64_t has = states_before(set.map(), end) - states_before(set.map(), first);
          ASSERT_LE(has, most) << "[" << first << ", " << end << ")";
          reached = reached || has == most;
        }
      }
    }
    EXPECT_TRUE(reached);
  }
}

// Each number, and each pair of neighbours, as often as it should be, within 5 standard deviations.
TEST(DrawTest, IsUniform) {
  constexpr std::int64_t kNumbers = 40, kCount = 10;
  constexpr int kDraws = 20000;
  std::vector<int> single(kNumbers), pairs(kNumbers);
  for (int refresh = 0; refresh < kDraws; ++refresh) {
    std::vector<char> has(kNumbers);
    for (const std::int64_t i : draw_numbers(kNumbers, kCount, {.seed = 11, .name = "w", .refresh = refresh}))
      has[static_cast<std::size_t>(i)] = 1;
    for (std::size_t i = 0; i < kNumbers; ++i) {
      single[i] += has[i];
      pairs[i] += has[i] * has[(i + 1) % kNumbers];
    }
  }
  const double one = 0.25, two = 10.0 / 40.0 * 9.0 / 39.0;
  for (std::size_t i = 0; i < kNumbers; ++i) {
    EXPECT_NEAR(single[i], kDraws * one, 5.0 * std::sqrt(kDraws * one * (1.0 - one))) << i;
    EXPECT_NEAR(pairs[i], kDraws * two, 5.0 * std::sqrt(kDraws * two * (1.0 - two))) << i;
  }
}

}  // namespace
}  // namespace strata
