// Memory of states that take turns: in every choice each piece has its own, in the memory where it is updated, and the choice
// with the most states fills it. Mutations that must fail: places that are not given out anew; a record that begins where the
// last one does; parts of a matrix that count as one; memory for the average choice.
#include "offload/turn_states.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "optim/frugal.h"

namespace strata {
namespace {

constexpr std::int64_t kColumns = 64;

struct Case {
  const char* name;
  BlockOrder order;
  double density;
  int world, zero_stage;
  bool some_on_gpu;
};

// Two blocks of four matrices, three of which lie one above the other, between vectors and an embedding that take no turns.
StateLayout layout_of(int world, const ParamGroups& groups) {
  const int plain = groups.of("v", {}), matrix = groups.of("m", {.projected = true});
  StateLayout layout{.world = WorldSize{world}, .units = {}};
  layout.units.push_back(layout_unit("embedding", {{"e", 300 * kColumns, plain, kColumns}}, layout.world));
  for (const char* block : {"a", "b"}) {
    ParamDecl qkv{std::string(block) + ".qkv", 200 * kColumns, matrix, kColumns};
    qkv.parts = {120, 50, 30};
    ParamDecl out{std::string(block) + ".out", 70 * kColumns, matrix, kColumns};
    layout.units.push_back(layout_unit(block, {{"norm", 100, plain}, qkv, {"bias", 90, plain}, out}, layout.world));
  }
  number_matrices(layout, groups);
  return layout;
}

class TurnStatesTest : public ::testing::TestWithParam<Case> {};

TEST_P(TurnStatesTest, EachPieceHasItsOwnMemoryInEveryChoice) {
  const Case& c = GetParam();
  const ParamGroups groups(0.1);
  const StateLayout layout = layout_of(c.world, groups);
  const Frugal method({.choice = FrugalChoice::tensors, .block_order = c.order, .density = c.density, .update_gap = 2}, 5);
  for (int rank = 0; rank < c.world; ++rank) {
    Device device(Backend::host, 1);
    Stream updates(device, "gpu update");
    TierArena gpu(Tier::gpu, std::size_t{4} << 20), cpu(Tier::cpu, std::size_t{4} << 20);
    const auto records = cut_optimizer_records(layout, Rank{rank}, c.zero_stage, kLayoutBlock, method, groups);
    std::vector<std::vector<StatePiece>> pieces;
    std::vector<char> on_gpu;
    for (const OptimizerRecord& record : records) {
      pieces.push_back(state_pieces(layout, record, method, groups));
      on_gpu.push_back(c.some_on_gpu && on_gpu.size() % 3 != 0 ? 1 : 0);
    }
    StatefulChoices choices(layout, method, groups);
    TurnStates turns(layout, method, groups);
    ASSERT_TRUE(turns.allocate(records, pieces, on_gpu, gpu, cpu).ok());
    const std::size_t memory[] = {cpu.report().in_use_by[static_cast<std::size_t>(Category::optimizer)],
                                  gpu.report().in_use_by[static_cast<std::size_t>(Category::optimizer)]};
    EXPECT_TRUE(memory[1] == 0 || c.some_on_gpu);
    ASSERT_TRUE(choices.allocate(records, on_gpu, updates, gpu, cpu).ok());

    std::int64_t most[] = {0, 0};
    for (std::int64_t step = 1; step <= 34; ++step) {
      choices.choose(step);
      turns.place(choices);
      std::multiset<std::pair<const float*, const float*>> taken[2];
      std::int64_t all[] = {0, 0};
      for (std::size_t r = 0; r < records.size(); ++r) {
        const std::size_t tier = on_gpu[r] != 0 ? 1 : 0;
        for (std::size_t i = 0; i < pieces[r].size(); ++i) {
          if (!pieces[r][i].takes_turns) continue;
          ASSERT_TRUE(turns.has(r));
          const ParamPiece& piece = pieces[r][i].of;
          const StatefulSet set = choices.of(records[r].unit, piece.param).set;
          const std::int64_t n = states_before(set.map(), piece.first + piece.count) - states_before(set.map(), piece.first);
          if (n == 0) continue;
          all[tier] += n;
          ASSERT_LE(turns.place_of(r, i) + n, turns.count(r));
          for (const float* const array : turns.arrays(r)) {
            if (array == nullptr) continue;
            taken[tier].emplace(array + turns.place_of(r, i), array + turns.place_of(r, i) + n);
          }
        }
      }
      for (const std::size_t tier : {0u, 1u}) {
        const float* end = nullptr;
        for (const auto& [first, last] : taken[tier]) {
          ASSERT_GE(first, end) << "step " << step;
          end = last;
        }
        if (taken[tier].empty()) continue;
        EXPECT_LE(static_cast<std::size_t>(end - taken[tier].begin()->first) * sizeof(float), memory[tier]);
        most[tier] = std::max(most[tier], all[tier]);
      }
    }
    for (const std::size_t tier : {0u, 1u}) {  // whole pages
      const std::size_t needed = static_cast<std::size_t>(2 * most[tier]) * sizeof(float);
      EXPECT_GE(memory[tier], needed);
      // Of drawn matrices any might have come together.
      if (c.order != BlockOrder::random) {
        EXPECT_LE(memory[tier], needed + 4096 + 8 * kParamAlignment * sizeof(float) * records.size());
      }
    }
    EXPECT_GT(most[0] + most[1], 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TurnStatesTest,
                         ::testing::Values(Case{"descending", BlockOrder::descending, 0.25, 1, 0, false},
                                           Case{"ascendingOverRanks", BlockOrder::ascending, 0.375, 3, 3, true},
                                           Case{"mirrorOnBoth", BlockOrder::mirror, 0.5, 1, 2, true},
                                           Case{"randomOverRanks", BlockOrder::random, 0.5, 2, 2, true},
                                           Case{"all", BlockOrder::descending, 1.0, 2, 1, false}),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(TurnStates, OnlyWhatIsTrainedByStatesHasSome) {
  const ParamGroups groups(0.1);
  const StateLayout layout = layout_of(1, groups);
  TierArena gpu(Tier::gpu, std::size_t{1} << 20), cpu(Tier::cpu, std::size_t{1} << 20);
  for (const double density : {0.0, 0.25}) {
    for (const FrugalChoice choice : {FrugalChoice::tensors, FrugalChoice::columns}) {
      const Frugal method({.choice = choice, .density = density}, 5);
      const auto records = cut_optimizer_records(layout, Rank{0}, 0, 1 << 20, method, groups);
      std::vector<std::vector<StatePiece>> pieces;
      for (const OptimizerRecord& record : records) pieces.push_back(state_pieces(layout, record, method, groups));
      TurnStates turns(layout, method, groups);
      ASSERT_TRUE(turns.allocate(records, pieces, std::vector<char>(records.size(), 0), gpu, cpu).ok());
      EXPECT_EQ(cpu.report().in_use > 0, choice == FrugalChoice::tensors && density > 0.0);
      EXPECT_EQ(gpu.report().in_use, 0u);
    }
  }
}

}  // namespace
}  // namespace strata
