// How records are cut, and where in them states lie of which not every element has some. Mutations caught: room for the average
// choice instead of the largest, states of a parameter that begin where those of the one before do, padding without states
// between parameters that are updated as one.
#include "offload/records.h"

#include <gtest/gtest.h>

#include "optim/frugal.h"

namespace strata {
namespace {

constexpr std::int64_t kRows = 90, kColumns = 130;

// Two matrices of which a part has states, between vectors whose elements all have some.
StateLayout layout(const ParamGroups& groups) {
  StateLayout layout{.world = WorldSize{2}, .units = {}};
  const int plain = groups.of("v", {}), split = groups.of("m", {.projected = true});
  layout.units.push_back(layout_unit(
      "u",
      {{"v", 100, plain}, {"a", kRows * kColumns, split, kColumns}, {"w", 70, plain}, {"b", kRows * kColumns, split, kColumns}},
      layout.world));
  return layout;
}

TEST(RecordsTest, OfElementsThatAllHaveStatesTheyLieWhereTheElementsDo) {
  const ParamGroups groups;
  const StateLayout of = layout(groups);
  for (const OptimizerRecord& record : cut_optimizer_records(of, Rank{1}, 1, 8192, AdamW(), groups)) {
    EXPECT_EQ(record.states, record.range.count);
    for (const StatePiece& piece : state_pieces(of, record, AdamW(), groups)) EXPECT_EQ(piece.states_at, piece.of.offset);
  }
}

TEST(RecordsTest, EveryChoiceHasRoomAndNoneIsWasted) {
  const ParamGroups groups;
  const StateLayout of = layout(groups);
  for (const FrugalChoice choice : {FrugalChoice::columns, FrugalChoice::rows, FrugalChoice::entries}) {
    for (const double density : {0.0, 0.25, 1.0}) {
      const Frugal frugal({.choice = choice, .density = density, .update_gap = 1}, 5);
      std::int64_t room = 0;
      for (const int stage : {0, 3}) {
        for (const int rank : {0, 1}) {
          for (const OptimizerRecord& record : cut_optimizer_records(of, Rank{rank}, stage, 8192, frugal, groups)) {
            const std::vector<StatePiece> pieces = state_pieces(of, record, frugal, groups);
            if (stage == 0 && rank == 0) room += record.states;
            for (std::size_t i = 0; i < pieces.size(); ++i) {
              const ParamPiece& piece = pieces[i].of;
              const std::int64_t at = pieces[i].states_at;
              const ParamExtent& param = of.units[0].params[piece.param];
              const std::int64_t end = i + 1 < pieces.size() ? pieces[i + 1].states_at : record.states;
              for (std::int64_t refresh = 0; refresh < 20; ++refresh) {
                const StatefulSet set = frugal.stateful(shape_of(param), groups[param.group], refresh);
                const std::int64_t used =
                    states_before(set.map(), piece.first + piece.count) - states_before(set.map(), piece.first);
                ASSERT_LE(used, end - at) << param.name << " from " << piece.first;
              }
            }
          }
        }
      }
      const double all = 2.0 * kRows * kColumns;
      // Rows lie whole in one record or the other; an eighth of a record, and padding, is for what a cut divides.
      EXPECT_LE(static_cast<double>(room), density * all + 192.0 + 4 * 1024.0 + 512.0);
    }
  }
}

}  // namespace
}  // namespace strata
