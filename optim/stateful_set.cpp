#include "optim/stateful_set.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "optim/stateful_walk.h"
#include "runtime/rng.h"
#include "runtime/status.h"

namespace strata {
namespace {

struct Host;  // whose copy of StatefulWalk this file has

constexpr std::int64_t kBits = 32;
constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();

// One 32-bit word for each number, four at a time.
class Words {
 public:
  explicit Words(const StatefulKey& key)
      : seed_{static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32)} {
    const std::uint64_t stream = stream_id("stateful/" + std::to_string(key.refresh) + "/" + std::string(key.name));
    stream_ = {static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  }
  // body(i, word) for i in [0, n).
  template <class Body>
  void for_each(std::int64_t n, Body body) const {
    for (std::int64_t i = 0; i < n; i += 4) {
      const auto block = static_cast<std::uint64_t>(i / 4);
      const auto words = philox4x32(
          {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream_[0], stream_[1]}, seed_);
      for (std::int64_t j = 0; j < std::min<std::int64_t>(4, n - i); ++j) body(i + j, words[static_cast<std::size_t>(j)]);
    }
  }

 private:
  std::array<std::uint32_t, 2> seed_, stream_;
};

// Calls chosen(i) for each number whose word is among the `count` smallest; of equal words the first numbers are taken. The
// words are made twice and never stored: by their upper bits it is known which are in but for one class, and that one is
// sorted.
template <class Chosen>
void choose_smallest(std::int64_t n, std::int64_t count, const Words& words, Chosen chosen) {
  constexpr int kClassBits = 12;
  constexpr int kShift = 32 - kClassBits;
  std::vector<std::int64_t> sizes(std::size_t{1} << kClassBits);
  words.for_each(n, [&](std::int64_t, std::uint32_t word) { ++sizes[word >> kShift]; });
  std::uint32_t last = 0;
  std::int64_t left = count;
  while (last + 1 < sizes.size() && left >= sizes[last]) left -= sizes[last++];
  std::vector<std::pair<std::uint32_t, std::int64_t>> members;
  words.for_each(n, [&](std::int64_t i, std::uint32_t word) {
    if (word >> kShift < last) chosen(i);
    if (word >> kShift == last) members.emplace_back(word, i);
  });
  std::sort(members.begin(), members.end());
  for (std::int64_t k = 0; k < left; ++k) chosen(members[static_cast<std::size_t>(k)].second);
}

std::int64_t numbers_of(StatefulKind kind, std::int64_t rows, std::int64_t columns) {
  STRATA_CHECK(rows >= 0 && columns >= 1, "a matrix has columns");
  STRATA_CHECK(kind == StatefulKind::columns || kind == StatefulKind::rows || kind == StatefulKind::entries,
               "columns, rows or entries are chosen");
  const std::int64_t n = kind == StatefulKind::columns ? columns : kind == StatefulKind::rows ? rows : rows * columns;
  STRATA_CHECK(n < kMost, "there are too many to choose from for words of 32 bits");
  return n;
}

// For n numbers, and one more, whose `before` is the number of all.
std::vector<StatefulWord> empty_words(std::int64_t n) {
  return std::vector<StatefulWord>(static_cast<std::size_t>(n / kBits + 2));
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
  choose_smallest(n, count, Words(key), [&](std::int64_t i) { numbers.push_back(i); });
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
  std::vector<StatefulWord> words = empty_words(n);
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
  std::vector<StatefulWord> words = empty_words(n);
  choose_smallest(n, count, Words(key), [&](std::int64_t i) { word_of(words, i).bits |= bit_of(i); });
  count_before(words);
  return {kind, rows, columns, std::move(words)};
}

StatefulMap StatefulSet::map(const StatefulWord* copy) const {
  StatefulMap map = map_;
  map.words = map_.words == nullptr ? nullptr : copy;
  return map;
}

}  // namespace strata
