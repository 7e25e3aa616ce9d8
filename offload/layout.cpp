#include "offload/layout.h"

#include <algorithm>

namespace strata {

std::int64_t StateLayout::numel() const {
  std::int64_t n = 0;
  for (const UnitLayout& unit : units) n += unit.numel;
  return n;
}

std::int64_t StateLayout::owned(Rank rank) const {
  std::int64_t n = 0;
  for (const UnitLayout& unit : units) n += unit.slices[static_cast<std::size_t>(rank.v)].count;
  return n;
}

UnitLayout layout_unit(std::string name, const std::vector<ParamDecl>& params, WorldSize world) {
  UnitLayout unit;
  unit.name = std::move(name);
  for (const ParamDecl& p : params) {
    unit.params.push_back({p.name, unit.numel, p.numel, p.group});
    unit.numel += (p.numel + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
  }
  unit.slices = partition_blocks(unit.numel, world, kLayoutBlock);
  return unit;
}

std::vector<GroupRun> group_runs(const UnitLayout& unit, Slice range) {
  std::vector<GroupRun> runs;
  for (std::size_t i = 0; i < unit.params.size(); ++i) {
    const std::int64_t begin = std::max(range.first, unit.params[i].offset);
    const std::int64_t next = i + 1 < unit.params.size() ? unit.params[i + 1].offset : unit.numel;
    const std::int64_t end = std::min(range.end(), next);
    if (begin >= end) continue;
    if (!runs.empty() && runs.back().group == unit.params[i].group)
      runs.back().range.count += end - begin;
    else
      runs.push_back({{begin, end - begin}, unit.params[i].group});
  }
  return runs;
}

std::vector<ParamPiece> params_in(const UnitLayout& unit, Slice range) {
  std::vector<ParamPiece> pieces;
  for (std::size_t i = 0; i < unit.params.size(); ++i) {
    const ParamExtent& p = unit.params[i];
    const std::int64_t begin = std::max(p.offset, range.first);
    const std::int64_t end = std::min(p.offset + p.numel, range.end());
    if (begin < end) pieces.push_back({i, begin - p.offset, begin - range.first, end - begin});
  }
  return pieces;
}

std::string element_name(const UnitLayout& unit, std::int64_t index) {
  for (const ParamExtent& p : unit.params)
    if (index >= p.offset && index < p.offset + p.numel) return p.name + "[" + std::to_string(index - p.offset) + "]";
  return unit.name;
}

}  // namespace strata
