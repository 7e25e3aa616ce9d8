#include "offload/layout.h"

#include <algorithm>
#include <numeric>

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
  ParamShape shape{.name = param.name, .rows = 1, .columns = param.numel};
  if (param.columns > 0) shape.rows = param.numel / param.columns, shape.columns = param.columns;
  shape.parts = param.parts, shape.first_matrix = param.first_matrix, shape.matrices = param.matrices;
  return shape;
}

void number_matrices(StateLayout& layout, const ParamGroups& groups) {
  std::int64_t matrices = 0;
  const auto each = [&](const auto& body) {
    for (UnitLayout& unit : layout.units)
      for (ParamExtent& param : unit.params)
        if (groups[param.group].projected) body(param);
  };
  each([&](ParamExtent& param) {
    param.first_matrix = matrices;
    matrices += std::max<std::int64_t>(1, std::ssize(param.parts));
  });
  each([&](ParamExtent& param) { param.matrices = matrices; });
}

std::int64_t row_cut(std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kMostPlaces = 1024;
  const std::int64_t least = std::lcm(columns, kLayoutBlock), wanted = rows * columns / kMostPlaces;
  return std::max<std::int64_t>(1, (wanted + least - 1) / least) * least;
}

std::int64_t UnitLayout::cut_at_or_before(std::int64_t place) const {
  if (place >= numel) return numel;
  const std::int64_t block = place / kLayoutBlock * kLayoutBlock;
  for (const ParamExtent& param : params)
    if (param.cut > 0 && param.offset < block && block < param.offset + param.numel)
      return param.offset + (block - param.offset) / param.cut * param.cut;
  return block;
}

UnitLayout layout_unit(std::string name, const std::vector<ParamDecl>& params, WorldSize world, std::int64_t state_block) {
  STRATA_CHECK(kLayoutBlock % state_block == 0, "a layout block has whole blocks of states");
  const auto round_up = [](std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; };
  UnitLayout unit;
  unit.name = std::move(name);
  for (const ParamDecl& p : params) {
    STRATA_CHECK(p.cut == 0 || (p.cut % kLayoutBlock == 0 && p.cut % p.columns == 0),
                 "a matrix is cut where rows and blocks end");
    unit.numel = round_up(unit.numel, p.cut > 0 ? kLayoutBlock : state_block);
    unit.params.push_back({p.name, unit.numel, p.numel, p.group, p.columns, p.cut, p.transposed, p.parts, 0, 0});
    unit.numel += round_up(p.numel, kParamAlignment);
  }
  std::int64_t first = 0;
  for (const Slice& even : partition_blocks(unit.numel, world, kLayoutBlock)) {
    const std::int64_t end = unit.cut_at_or_before(even.end());
    unit.slices.push_back({first, end - first});
    first = end;
  }
  return unit;
}

std::vector<Slice> cut_stretches(const UnitLayout& unit, Slice slice, std::int64_t size) {
  std::vector<Slice> stretches;
  for (std::int64_t first = slice.first; first < slice.end();) {
    std::int64_t end = std::min(slice.end(), unit.cut_at_or_before(first + size));
    for (std::int64_t more = 2; end <= first; ++more) end = std::min(slice.end(), unit.cut_at_or_before(first + more * size));
    stretches.push_back({first, end - first});
    first = end;
  }
  return stretches;
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
