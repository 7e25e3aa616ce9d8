// Which of a matrix's elements have states, as bits, from some element on: for the bodies of an update on every processor.
// A template over their Ops, so that nothing compiled for one instruction set can be linked into code for another one.
#pragma once

#include <cstdint>

#include "optim/stateful_set.h"
#include "runtime/host_device.h"

namespace strata {

template <class Ops>
class StatefulWalk {
 public:
  STRATA_HOST_DEVICE StatefulWalk(const StatefulMap& map, std::int64_t element) : map_(map), row_(0), at_(element) {
    if (map.kind == StatefulKind::columns || map.kind == StatefulKind::rows) {
      row_ = element / map.columns;
      at_ = element - row_ * map.columns;
    }
  }

  // How many elements before this place have states.
  STRATA_HOST_DEVICE std::int64_t before() const {
    switch (map_.kind) {
      case StatefulKind::none: return 0;
      case StatefulKind::all: return at_;
      case StatefulKind::columns: return row_ * map_.per_row + rank(at_);
      case StatefulKind::rows: return rank(row_) * map_.columns + (is_chosen(row_) ? at_ : 0);
      case StatefulKind::entries: return rank(at_);
    }
    return 0;
  }

  // Of the next n elements, 0 < n <= 32: the first one is bit 0, what is behind them 0.
  STRATA_HOST_DEVICE std::uint32_t next(int n) {
    switch (map_.kind) {
      case StatefulKind::none: return 0;
      case StatefulKind::all: return first(n);
      case StatefulKind::entries: {
        const std::uint32_t bits = bits_from(at_) & first(n);
        at_ += n;
        return bits;
      }
      case StatefulKind::columns:
      case StatefulKind::rows: break;
    }
    std::uint32_t bits = 0;
    for (int done = 0; done < n;) {
      const std::int64_t left = map_.columns - at_;
      const int piece = left < n - done ? static_cast<int>(left) : n - done;
      if (map_.kind == StatefulKind::columns)
        bits |= (bits_from(at_) & first(piece)) << done;
      else if (is_chosen(row_))
        bits |= first(piece) << done;
      done += piece;
      at_ += piece;
      if (at_ == map_.columns) at_ = 0, ++row_;
    }
    return bits;
  }

  STRATA_HOST_DEVICE static int count(std::uint32_t bits) {
    bits -= bits >> 1 & 0x55555555u;
    bits = (bits & 0x33333333u) + (bits >> 2 & 0x33333333u);
    return static_cast<int>(((bits + (bits >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
  }

 private:
  STRATA_HOST_DEVICE static std::uint32_t first(int n) { return 0xffffffffu >> (32 - n); }
  // 32 of them, from number i on. Behind the last word but one there is always another.
  STRATA_HOST_DEVICE std::uint32_t bits_from(std::int64_t i) const {
    const StatefulWord* word = map_.words + i / 32;
    const int shift = static_cast<int>(i % 32);
    return shift == 0 ? word[0].bits : word[0].bits >> shift | word[1].bits << (32 - shift);
  }
  STRATA_HOST_DEVICE bool is_chosen(std::int64_t i) const { return (map_.words[i / 32].bits >> (i % 32) & 1u) != 0; }
  STRATA_HOST_DEVICE std::int64_t rank(std::int64_t i) const {
    const StatefulWord word = map_.words[i / 32];
    return static_cast<std::int64_t>(word.before) + count(word.bits & ((1u << (i % 32)) - 1u));
  }

  StatefulMap map_;
  std::int64_t row_, at_;  // place in the row; of kinds without rows, in the matrix
};

}  // namespace strata
