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

ParamShape shape_of(const ParamExtent& param) {
  if (param.columns == 0) return {param.name, 1, param.numel};
  return {param.name, param.numel / param.columns, param.columns};
}

UnitLayout layout_unit(std::string name, const std::vector<ParamDecl>& params, WorldSize world) {
  UnitLayout unit;
  unit.name = std::move(name);
  for (const ParamDecl& p : params) {
    unit.params.push_back({p.name, unit.numel, p.numel, p.group, p.columns});
    unit.numel += (p.numel + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
  }
  unit.slices = partition_blocks(unit.numel, world, kLayoutBlock);
  return unit;
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
