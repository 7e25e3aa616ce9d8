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

namespace strata {

enum class StatefulKind : std::uint8_t { none, all, columns, rows, entries };

// 32 columns, rows or entries (flat, row-major): bit b of word w is of number 32 w + b; how many have states before number 32
// w.
struct StatefulWord {
  std::uint32_t bits = 0, before = 0;
  bool operator==(const StatefulWord&) const = default;
};

// What an update needs to know of a set; trivially copyable. words: memory of the processor that updates; of kinds all and none
// null.
struct StatefulMap {
  StatefulKind kind = StatefulKind::none;
  std::int64_t columns = 1;  // of the matrix
  std::int64_t per_row = 0;  // of kind columns: how many have states
  const StatefulWord* words = nullptr;
};

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
// of Philox (runtime/rng.h), the stream of the key's name and refresh, are smallest.
std::vector<std::int64_t> draw_numbers(std::int64_t n, std::int64_t count, const StatefulKey& key);

// Immutable, and cheap to copy. Of columns and rows it keeps 8 bytes for 32 of them, of entries 0.25 bytes an element; fewer
// than 2^32 of what is chosen.
class StatefulSet {
 public:
  static StatefulSet none(std::int64_t rows, std::int64_t columns);
  static StatefulSet all(std::int64_t rows, std::int64_t columns);
  // Of kind columns, rows or entries; the numbers of those chosen, in any order, each once.
  static StatefulSet of(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::span<const std::int64_t> chosen);
  // The same as of(draw_numbers()).
  static StatefulSet draw(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::int64_t count,
                          const StatefulKey& key);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return map_.columns; }
  // How many elements have states.
  std::int64_t states() const { return states_before(map_, rows_ * map_.columns); }
  // What a processor with other memory needs a copy of; empty of kinds all and none. The last one is behind the others.
  std::span<const StatefulWord> words() const { return *words_; }
  // Valid as long as the set or a copy of it lives.
  const StatefulMap& map() const { return map_; }
  // With a copy of words() elsewhere.
  StatefulMap map(const StatefulWord* copy) const;

 private:
  StatefulSet(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::vector<StatefulWord> words);

  std::int64_t rows_;
  std::shared_ptr<const std::vector<StatefulWord>> words_;
  StatefulMap map_;
};

}  // namespace strata
