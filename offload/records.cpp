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
    for (const Slice& range : cut_records(mine, size)) records.push_back({static_cast<int>(u), range, range.count});
  }
  return records;
}

namespace {

// Calls body(piece, where its states begin), and gives how many there are of all pieces.
template <class Body>
std::int64_t for_each_piece(const UnitLayout& unit, Slice range, const Optimizer& method, const ParamGroups& groups,
                            Body body) {
  std::int64_t states = 0;
  for (const ParamPiece& piece : params_in(unit, range)) {
    const ParamExtent& param = unit.params[piece.param];
    body(piece, states);
    const std::int64_t most = method.most_states(shape_of(param), groups[param.group], piece.first, piece.count);
    states += (most + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
  }
  return states;
}

}  // namespace

std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size, const Optimizer& method,
                                                   const ParamGroups& groups) {
  std::vector<OptimizerRecord> records = cut_optimizer_records(layout, rank, zero_stage, record_size);
  for (OptimizerRecord& record : records) {
    const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
    record.states = for_each_piece(unit, record.range, method, groups, [](const ParamPiece&, std::int64_t) {});
  }
  return records;
}

std::vector<StatePiece> state_pieces(const StateLayout& layout, const OptimizerRecord& record, const Optimizer& method,
                                     const ParamGroups& groups) {
  std::vector<StatePiece> pieces;
  for_each_piece(layout.units[static_cast<std::size_t>(record.unit)], record.range, method, groups,
                 [&](const ParamPiece& piece, std::int64_t states_at) {
                   pieces.push_back({piece, states_at});
                 });
  return pieces;
}

}  // namespace strata
