#include "offload/records.h"

#include <algorithm>

#include "optim/row_method.h"

namespace strata {

std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size) {
  const std::int64_t size = std::max<std::int64_t>(1, (record_size + kLayoutBlock - 1) / kLayoutBlock) * kLayoutBlock;
  std::vector<OptimizerRecord> records;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    const UnitLayout& unit = layout.units[u];
    const Slice mine = zero_stage == 0 ? Slice{0, unit.numel} : unit.slices[static_cast<std::size_t>(rank.v)];
    for (const Slice& range : cut_stretches(unit, mine, size)) records.push_back({static_cast<int>(u), range, range.count});
  }
  return records;
}

namespace {

// An array of so many states is followed by another at an aligned place.
std::int64_t round_up_states(std::int64_t n, std::int64_t whole = kParamAlignment) { return (n + whole - 1) / whole * whole; }

// Sets what the record has of `method`, and gives its pieces.
std::vector<StatePiece> add_states(const StateLayout& layout, OptimizerRecord& record, const Optimizer& method,
                                   const ParamGroups& groups) {
  const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
  std::vector<StatePiece> pieces;
  record.states = record.rows = record.row_states = record.turns = 0;
  for (const ParamPiece& piece : params_in(unit, record.range)) {
    const ParamExtent& param = unit.params[piece.param];
    const ParamGroup& group = groups[param.group];
    if (const std::int64_t rank = method.rows() == nullptr ? 0 : method.rows()->rank(shape_of(param), group); rank > 0) {
      STRATA_CHECK(param.cut > 0 && piece.first % param.columns == 0 && piece.count % param.columns == 0,
                   "a matrix whose rows stay together is cut between them");
      const std::int64_t rows = piece.count / param.columns;
      pieces.push_back({piece, record.row_states, rank, record.rows});
      record.rows += rows;
      record.row_states += rows * rank;
      record.projecting += static_cast<double>(piece.count) * method.rows()->projecting(rank);
      continue;
    }
    if (method.takes_turns(shape_of(param), group)) {
      pieces.push_back({.of = piece, .takes_turns = true});
      record.turns += round_up_states(piece.count);
      continue;
    }
    pieces.push_back({piece, record.states});
    const std::int64_t most = method.most_states(shape_of(param), group, piece.first, piece.count);
    record.states += round_up_states(most, std::max(kParamAlignment, method.state_format().block));
  }
  return pieces;
}

}  // namespace

std::vector<OptimizerRecord> cut_optimizer_records(const StateLayout& layout, Rank rank, int zero_stage,
                                                   std::int64_t record_size, const Optimizer& method,
                                                   const ParamGroups& groups) {
  std::vector<OptimizerRecord> records = cut_optimizer_records(layout, rank, zero_stage, record_size);
  for (OptimizerRecord& record : records) add_states(layout, record, method, groups);
  return records;
}

std::int64_t state_count(const ParamExtent& param, const Optimizer& method, const ParamGroups& groups, std::int64_t choice) {
  const ParamShape shape = shape_of(param);
  const ParamGroup& group = groups[param.group];
  if (method.takes_turns(shape, group)) return method.stateful(shape, group, choice).states();
  const std::int64_t rank = method.rows() == nullptr ? 0 : method.rows()->rank(shape, group);
  return rank > 0 ? shape.rows * rank : method.most_states(shape, group, 0, param.numel);
}

std::vector<StatePiece> state_pieces(const StateLayout& layout, const OptimizerRecord& record, const Optimizer& method,
                                     const ParamGroups& groups) {
  OptimizerRecord same = record;
  return add_states(layout, same, method, groups);
}

}  // namespace strata
