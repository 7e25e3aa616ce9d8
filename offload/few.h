// A list of at most four numbers that allocates nothing: a plan makes millions of instructions before one schedule is chosen.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>

#include "runtime/status.h"

namespace strata {

class Few {
 public:
  Few() = default;
  Few(std::initializer_list<int> values) {
    for (const int value : values) push_back(value);
  }
  void push_back(int value) {
    STRATA_CHECK(count_ < values_.size(), "a list of few numbers is full");
    values_[count_++] = value;
  }
  const int* begin() const { return values_.data(); }
  const int* end() const { return values_.data() + count_; }
  std::size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }

 private:
  std::array<int, 4> values_{};
  std::size_t count_ = 0;
};

}  // namespace strata
