#include "optim/stateful_set.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "optim/stateful_walk.h"
#include "runtime/rng.h"
#include "runtime/status.h"

namespace strata {
namespace {

struct Host;  // whose copy of StatefulWalk this file has

constexpr std::int64_t kBits = 32;
constexpr std::int64_t kMost = 0xffffffff;

// One 32-bit word for each number, four at a time.
class Words {
 public:
  explicit Words(const StatefulKey& key)
      : seed_{static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32)} {
    const std::uint64_t stream = stream_id("stateful/" + std::to_string(key.refresh) + "/" + std::string(key.name));
    stream_ = {static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  }
  // body(i, word) for i in [begin, end); begin is a multiple of 4.
  template <class Body>
  void for_each(std::int64_t begin, std::int64_t end, Body body) const {
    for (std::int64_t i = begin; i < end; i += 4) {
      const auto block = static_cast<std::uint64_t>(i / 4);
      const auto words = philox4x32(
          {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream_[0], stream_[1]}, seed_);
      for (std::int64_t j = 0; j < std::min<std::int64_t>(4, end - i); ++j) body(i + j, words[static_cast<std::size_t>(j)]);
    }
  }

 private:
  std::array<std::uint32_t, 2> seed_, stream_;
};

// Numbers of which draw() takes each one's part.
std::int64_t layer_of(StatefulKind kind, std::int64_t n) {
  return kind == StatefulKind::rows ? 64 : kind == StatefulKind::entries ? 4096 : std::max<std::int64_t>(n, 1);
}

// How many of `count` out of n numbers are below `end`, a multiple of the layer or n.
std::int64_t part_below(std::int64_t n, std::int64_t count, std::int64_t end) {
  return n == 0 ? 0
                : static_cast<std::int64_t>(static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(end) /
                                            static_cast<std::uint64_t>(n));
}

// Calls chosen(i) for each number whose word is among the smallest of its layer.
template <class Chosen>
void choose_smallest(std::int64_t n, std::int64_t count, std::int64_t layer, const Words& words, Chosen chosen) {
  std::vector<std::pair<std::uint32_t, std::int64_t>> members;
  for (std::int64_t begin = 0; begin < n; begin += layer) {
    const std::int64_t end = std::min(n, begin + layer);
    const std::int64_t part = part_below(n, count, end) - part_below(n, count, begin);
    if (part == 0) continue;
    members.clear();
    words.for_each(begin, end, [&](std::int64_t i, std::uint32_t word) { members.emplace_back(word, i); });
    if (part < end - begin) std::nth_element(members.begin(), members.begin() + part, members.end());
    for (std::int64_t k = 0; k < part; ++k) chosen(members[static_cast<std::size_t>(k)].second);
  }
}

// Of the numbers [begin, end), those that are drawn, at most.
std::int64_t most_between(std::int64_t n, std::int64_t count, std::int64_t layer, std::int64_t begin, std::int64_t end) {
  std::int64_t most = 0;
  const auto layer_part = [&](std::int64_t at) {  // of the layer that begins there, what of it is between
    const std::int64_t to = std::min(n, at + layer);
    const std::int64_t part = part_below(n, count, to) - part_below(n, count, at);
    return std::min(part, std::min(to, end) - std::max(at, begin));
  };
  if (begin >= end) return 0;
  const std::int64_t first = begin / layer * layer, last = (end - 1) / layer * layer;
  most = layer_part(first);
  if (last > first) most += layer_part(last) + part_below(n, count, last) - part_below(n, count, first + layer);
  return most;
}

std::int64_t numbers_of(StatefulKind kind, std::int64_t rows, std::int64_t columns) {
  STRATA_CHECK(rows >= 0 && columns >= 1, "a matrix has columns");
  STRATA_CHECK(kind == StatefulKind::columns || kind == StatefulKind::rows || kind == StatefulKind::entries,
               "columns, rows or entries are chosen");
  const std::int64_t n = kind == StatefulKind::columns ? columns : kind == StatefulKind::rows ? rows : rows * columns;
  STRATA_CHECK(n < kMost, "there are too many to choose from for words of 32 bits");
  return n;
}

// For the numbers, and one more, whose `before` is the number of all.
std::vector<StatefulWord> empty_words(StatefulKind kind, std::int64_t rows, std::int64_t columns) {
  return std::vector<StatefulWord>(static_cast<std::size_t>(StatefulSet::word_count(kind, rows, columns)));
}
std::uint32_t bit_of(std::int64_t i) { return 1u << (i % kBits); }
StatefulWord& word_of(std::vector<StatefulWord>& words, std::int64_t i) { return words[static_cast<std::size_t>(i / kBits)]; }

void count_before(std::vector<StatefulWord>& words) {
  std::uint32_t before = 0;
  for (StatefulWord& word : words) {
    word.before = before;
    before += static_cast<std::uint32_t>(StatefulWalk<Host>::count(word.bits));
  }
}

}  // namespace

std::int64_t states_before(const StatefulMap& map, std::int64_t element) { return StatefulWalk<Host>(map, element).before(); }

std::vector<std::int64_t> draw_numbers(std::int64_t n, std::int64_t count, const StatefulKey& key) {
  STRATA_CHECK(0 <= count && count <= n && n < kMost, "a choice of as many as there are at most");
  std::vector<std::int64_t> numbers;
  choose_smallest(n, count, std::max<std::int64_t>(n, 1), Words(key), [&](std::int64_t i) { numbers.push_back(i); });
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

StatefulSet::StatefulSet(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::vector<StatefulWord> words)
    : rows_(rows), words_(std::make_shared<const std::vector<StatefulWord>>(std::move(words))) {
  map_ = {.kind = kind, .columns = columns, .words = words_->empty() ? nullptr : words_->data()};
  if (kind == StatefulKind::columns) map_.per_row = words_->back().before;
}

StatefulSet StatefulSet::none(std::int64_t rows, std::int64_t columns) { return {StatefulKind::none, rows, columns, {}}; }
StatefulSet StatefulSet::all(std::int64_t rows, std::int64_t columns) { return {StatefulKind::all, rows, columns, {}}; }

StatefulSet StatefulSet::of(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::span<const std::int64_t> chosen) {
  const std::int64_t n = numbers_of(kind, rows, columns);
  std::vector<StatefulWord> words = empty_words(kind, rows, columns);
  for (const std::int64_t i : chosen) {
    STRATA_CHECK(0 <= i && i < n, "what is chosen is not in the matrix");
    STRATA_CHECK((word_of(words, i).bits & bit_of(i)) == 0, "chosen twice");
    word_of(words, i).bits |= bit_of(i);
  }
  count_before(words);
  return {kind, rows, columns, std::move(words)};
}

StatefulSet StatefulSet::draw(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::int64_t count,
                              const StatefulKey& key) {
  const std::int64_t n = numbers_of(kind, rows, columns);
  STRATA_CHECK(0 <= count && count <= n, "a choice of as many as there are at most");
  std::vector<StatefulWord> words = empty_words(kind, rows, columns);
  choose_smallest(n, count, layer_of(kind, n), Words(key), [&](std::int64_t i) { word_of(words, i).bits |= bit_of(i); });
  count_before(words);
  return {kind, rows, columns, std::move(words)};
}

std::int64_t StatefulSet::most_drawn(StatefulKind kind, std::int64_t rows, std::int64_t columns, std::int64_t count,
                                     std::int64_t first, std::int64_t n) {
  const std::int64_t numbers = numbers_of(kind, rows, columns), layer = layer_of(kind, numbers), end = first + n;
  if (n <= 0) return 0;
  if (kind == StatefulKind::entries) return most_between(numbers, count, layer, first, end);
  const std::int64_t first_row = first / columns, last_row = (end - 1) / columns;
  if (kind == StatefulKind::rows) return std::min(n, columns * most_between(numbers, count, layer, first_row, last_row + 1));
  if (first_row == last_row) return std::min(n, count);
  return std::min((first_row + 1) * columns - first, count) + (last_row - first_row - 1) * count +
         std::min(end - last_row * columns, count);
}

std::int64_t StatefulSet::word_count(StatefulKind kind, std::int64_t rows, std::int64_t columns) {
  return kind == StatefulKind::none || kind == StatefulKind::all ? 0 : numbers_of(kind, rows, columns) / kBits + 2;
}

StatefulMap StatefulSet::map(const StatefulWord* copy) const {
  StatefulMap map = map_;
  map.words = map_.words == nullptr ? nullptr : copy;
  return map;
}

}  // namespace strata
