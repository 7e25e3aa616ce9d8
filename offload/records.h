// What is updated together: a record is a slice of one unit that one rank updates, with all its optimizer state.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/layout.h"
#include "optim/param_groups.h"
#include "runtime/arena.h"

namespace strata {

struct OptimizerRecord {
  int unit = 0;
  Slice range;  // in the unit's flat range
  std::int64_t states =
      0;  // values in the array of each of the optimizer's states; of elements that all have some: range.count
  // Of matrices that a RowMethod updates: their rows, and what these have of each state, which lies apart.
  std::int64_t rows = 0, row_states = 0;
  // Of matrices whose states take turns (Optimizer::takes_turns()): what they need of each state, which lies apart too, at
  // most.
  std::int64_t turns = 0;
  double projecting = 0.0;  // work of it, in parameters that are updated (RowMethod::projecting)
};

// Where a record's state lives, and whether the GPU updates it. A record at home on the GPU is updated there.
struct RecordPlacement {
  Tier home = Tier::cpu;
  bool on_gpu = false;
  bool operator==(const RecordPlacement&) const = default;
};

// Where a unit's compute copy of the parameters and its gradient sums live between uses.
struct UnitPlacement {
  Tier params = Tier::gpu;
  Tier grads = Tier::gpu;
  bool operator==(const UnitPlacement&) const = default;
};

// Cuts what `rank` updates, in unit order. record_size: parameters, rounded up to whole layout blocks. Pure.
// Every element has states.
std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size);
// The same, with room for the states that `method` keeps.
std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size, const Optimizer& method,
                                                   const ParamGroups& groups);

// A parameter's part of a record.
struct StatePiece {
  ParamPiece of;
  std::int64_t states_at = 0;  // where those of its elements begin, in each of the record's state arrays
  // Of a matrix that a RowMethod updates: values of each row, and the piece's first row among the record's. states_at is then
  // in the arrays of the rows.
  std::int64_t rank = 0;
  std::int64_t rows_at = 0;
  bool takes_turns = false;  // its states are not in these arrays
};
// By place. What has states throughout has them where its elements are, counted from the first of them, padding included, so
// that neighbours of that kind can be updated as one.
std::vector<StatePiece> state_pieces(const StateLayout& layout, const OptimizerRecord& record, const Optimizer& method,
                                     const ParamGroups& groups);

// Values of each of the optimizer's states that all of a parameter has in a choice (Optimizer::choice).
std::int64_t state_count(const ParamExtent& param, const Optimizer& method, const ParamGroups& groups, std::int64_t choice);

}  // namespace strata
