// Where every parameter lies in its unit's flat range, and who owns what. A pure function of the model and the world size:
// every ZeRO stage, home tier and checkpoint uses the same coordinates.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"

namespace strata {

// Shards, norms and records are cut at multiples of this (kernels::kNormBlock).
inline constexpr std::int64_t kLayoutBlock = 4096;
// Every parameter starts at a multiple of this many elements, so that 16-byte accesses are aligned in f32 and bf16.
inline constexpr std::int64_t kParamAlignment = 64;

struct ParamExtent {
  std::string name;
  std::int64_t offset = 0;  // elements, inside the unit's flat range
  std::int64_t numel = 0;
  int group = 0;             // of hyper-parameters (ParamGroups)
  std::int64_t columns = 0;  // of a matrix; 0: is a vector
  // Elements, whole rows: shards and records cut the matrix only at multiples of this; it begins at a block. 0: at any block.
  std::int64_t cut = 0;
  bool transposed = false;                      // the model's matrix is the transpose of this one
  std::vector<std::int64_t> parts = {};         // rows of the matrices that it is, one above the other; empty: one
  std::int64_t first_matrix = 0, matrices = 0;  // number_matrices()
};
ParamShape shape_of(const ParamExtent& param);

// Where a matrix whose rows stay together may be cut (ParamExtent::cut): where rows and layout blocks end together, and not in
// more than about a thousand places.
std::int64_t row_cut(std::int64_t rows, std::int64_t columns);

struct UnitLayout {
  std::string name;
  std::vector<ParamExtent> params;  // by offset; gaps between them are zero padding
  std::int64_t numel = 0;           // flat length, padding included
  std::vector<Slice> slices;        // by rank: what each owns (gradient sums, optimizer state, stored parameters)
  std::int64_t blocks() const { return (numel + kLayoutBlock - 1) / kLayoutBlock; }
  // The last place at or before this one where the unit may be cut.
  std::int64_t cut_at_or_before(std::int64_t place) const;
};

struct ParamDecl {
  std::string name;
  std::int64_t numel = 0;
  int group = 0;
  std::int64_t columns = 0;
  std::int64_t cut = 0;
  bool transposed = false;
  std::vector<std::int64_t> parts = {};
};

struct StateLayout {
  WorldSize world;
  std::vector<UnitLayout> units;
  std::int64_t numel() const;           // padding included
  std::int64_t owned(Rank rank) const;  // elements of all units that `rank` owns
};

// Numbers the matrices of all parameters whose group is projected (ParamShape::first_matrix).
void number_matrices(StateLayout& layout, const ParamGroups& groups);

// state_block: of StateFormat; parameters begin at multiples of it, so that no cut is inside a block.
UnitLayout layout_unit(std::string name, const std::vector<ParamDecl>& params, WorldSize world, std::int64_t state_block = 1);

// A stretch of one parameter inside a range of its unit.
struct ParamPiece {
  std::size_t param = 0;    // index in unit.params
  std::int64_t first = 0;   // first element, in the parameter
  std::int64_t offset = 0;  // the same element's place in the range
  std::int64_t count = 0;
};
// What `range` holds, parameter by parameter; padding is in no piece.
std::vector<ParamPiece> params_in(const UnitLayout& unit, Slice range);

// Cuts `slice` into stretches of about `size` elements; the last may be shorter, and one that could not be cut there is longer.
std::vector<Slice> cut_stretches(const UnitLayout& unit, Slice slice, std::int64_t size);

// Name of the parameter that holds element `index` of the unit, and the element's index inside it; padding: the unit's name.
std::string element_name(const UnitLayout& unit, std::int64_t index);

}  // namespace strata
