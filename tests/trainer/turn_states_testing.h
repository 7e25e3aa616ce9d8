// What states that take turns need, as a plan takes it.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "offload/turn_states.h"

namespace strata {

// Values of each state in the memory of a rank that updates all records on its CPU.
inline std::int64_t turn_states(const StateLayout& layout, const std::vector<OptimizerRecord>& records, const Optimizer& method,
                                const ParamGroups& groups) {
  std::vector<std::vector<StatePiece>> pieces;
  for (const OptimizerRecord& record : records) pieces.push_back(state_pieces(layout, record, method, groups));
  TierArena gpu(Tier::gpu, 0, TierArena::Backing::none), cpu(Tier::cpu, std::size_t{1} << 40, TierArena::Backing::none);
  TurnStates turns(layout, method, groups);
  EXPECT_TRUE(turns.allocate(records, pieces, std::vector<char>(records.size(), 0), gpu, cpu).ok());
  const std::size_t bytes = cpu.report().in_use_by[static_cast<std::size_t>(Category::optimizer)];
  return static_cast<std::int64_t>(bytes / sizeof(float) / method.states().size());
}

}  // namespace strata
