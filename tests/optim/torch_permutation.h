#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace strata {

// torch.randperm on the CPU: a Fisher-Yates shuffle by mt19937.
inline std::vector<std::int64_t> torch_permutation(std::int64_t n, std::mt19937& engine) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t i = 0; i + 1 < numbers.size(); ++i) std::swap(numbers[i], numbers[i + engine() % (numbers.size() - i)]);
  return numbers;
}

}  // namespace strata
