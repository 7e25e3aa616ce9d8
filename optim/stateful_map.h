// What an update needs to know of which elements of a matrix have optimizer states; optim/stateful_set.h makes it.
#pragma once

#include <cstdint>

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

}  // namespace strata
