#include "offload/records.h"

#include <algorithm>

namespace strata {

std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size) {
  const std::int64_t size = std::max<std::int64_t>(1, (record_size + kLayoutBlock - 1) / kLayoutBlock) * kLayoutBlock;
  std::vector<OptimizerRecord> records;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    const UnitLayout& unit = layout.units[u];
    const Slice mine = zero_stage == 0 ? Slice{0, unit.numel} : unit.slices[static_cast<std::size_t>(rank.v)];
    for (const Slice& range : cut_records(mine, size)) records.push_back({static_cast<int>(u), range});
  }
  return records;
}

}  // namespace strata
