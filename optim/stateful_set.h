// Which elements of a matrix have optimizer states, where not all of them do: whole columns, whole rows, single entries, all or
// none. States of such a matrix have no gaps: they are stored in the order of its elements, so the place of an element's states
// is the number of elements before it that have some too. Of columns (k of n) that is i * k + (those before column j), of rows
// (those before row i) * n + j.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "optim/stateful_map.h"

namespace strata {

// How many of the elements before this one (flat, row-major; the number of elements: of all) have states. Words in host memory.
// So the states of the range [first, first + n) begin at states_before(first), and there are states_before(first + n) -
// states_before(first) of them.
std::int64_t states_before(const StatefulMap& map, std::int64_t element);

// What a random choice is a function of: the same on every rank and processor.
struct StatefulKey {
  std::uint64_t seed = 0;    // of the run
  std::string_view name;     // of the tensor
  std::int64_t refresh = 0;  // how often the choice was made before
};

// `count` different numbers below n (count <= n < 2^32), each set as likely as any other, in ascending order: those whose words
// of Philox (runtime/rng.h), the stream of the key's name and refresh, are smallest; of equal words the first ones.
std::vector<std::int64_t> draw_numbers(std::int64_t n, std::int64_t count, const StatefulKey& key);

// Immutable, and cheap to copy. Of columns and rows it keeps 8 bytes for 32 of them, of entries 0.25 bytes an element; fewer
// than 2^32 of what is chosen.
class StatefulSet {
 public:
  static StatefulSet none(std::int64_t rows, std::int64_t columns);
  static StatefulSet all(std::int64_t rows, std::int64_t columns);
  // Of kind columns, rows or entries; the numbers of those chosen, in any order, each once.
  static StatefulSet of(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::span<const std::int64_t> chosen);
  // `count` columns, rows or entries. Columns as draw_numbers() gives them. Rows and entries are drawn so that what a record
  // holds of a matrix needs no more room than its share: by layers of 64 rows or 4096 entries, each with its part of `count`
  // (the difference of count * numbers / all of them, cut off, at its ends), from within as draw_numbers() would.
  static StatefulSet draw(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::int64_t count,
                          const StatefulKey& key);
  // How many of the elements [first, first + n) have states at most, whatever draw() gives; of the whole matrix: exactly.
  static std::int64_t most_drawn(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::int64_t count,
                                 std::int64_t first, std::int64_t n);
  // How many words() a set of this kind has.
  static std::int64_t word_count(StatefulKind kind, std::int64_t rows, std::int64_t columns);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return map_.columns; }
  // How many elements have states.
  std::int64_t states() const { return states_before(map_, rows_ * map_.columns); }
  // What a processor with other memory needs a copy of; empty of kinds all and none. The last one is behind the others.
  std::span<const StatefulWord> words() const { return *words_; }
  // Valid as long as the set or a copy of it lives.
  const StatefulMap& map() const& { return map_; }
  const StatefulMap& map() const&& = delete;  // the set outlives its map
  // With a copy of words() elsewhere.
  StatefulMap map(const StatefulWord* copy) const;

 private:
  StatefulSet(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::vector<StatefulWord> words);

  std::int64_t rows_;
  std::shared_ptr<const std::vector<StatefulWord>> words_;
  StatefulMap map_;
};

}  // namespace strata
