// What is updated together: a record is a slice of one unit that one rank updates, with all its optimizer state.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/layout.h"
#include "runtime/arena.h"

namespace strata {

struct OptimizerRecord {
  int unit = 0;
  Slice range;  // in the unit's flat range
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
std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size);

}  // namespace strata
