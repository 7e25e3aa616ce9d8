#include "optim/frugal_blocks.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "optim/stateful_set.h"

namespace strata {
namespace {

// As Python rounds, whatever the rounding mode.
std::int64_t round_half_even(double x) {
  const double below = std::floor(x), rest = x - below;
  const auto whole = static_cast<std::int64_t>(below);
  if (rest != 0.5) return rest > 0.5 ? whole + 1 : whole;
  return whole + whole % 2;
}

}  // namespace

Result<std::int64_t> active_block_count(BlockOrder order, std::int64_t tensors, double density) {
  STRATA_CHECK(tensors >= 0 && density >= 0.0 && density <= 1.0, "a density is a part");
  const std::int64_t count = round_half_even(static_cast<double>(tensors) * density);
  if (order == BlockOrder::mirror && count % 2 != 0)
    return Status{Code::invalid_config, "frugal: order mirror trains tensors in pairs, but a density of " +
                                            std::to_string(density) + " of " + std::to_string(tensors) + " tensors is " +
                                            std::to_string(count) + ": choose another density or order"};
  return count;
}

std::vector<std::int64_t> active_blocks(BlockOrder order, std::int64_t tensors, std::int64_t count, std::int64_t refresh,
                                        std::uint64_t seed) {
  STRATA_CHECK(0 <= count && count <= tensors && refresh >= 0, "a choice of as many tensors as there are at most");
  STRATA_CHECK(order != BlockOrder::mirror || count % 2 == 0, "order mirror takes pairs");
  if (order == BlockOrder::random) return draw_numbers(tensors, count, {.seed = seed, .name = "blocks", .refresh = refresh});
  // The i-th of all tensors that were ever taken.
  const bool mirror = order == BlockOrder::mirror;
  const std::int64_t round = mirror ? tensors / 2 : tensors, taken = mirror ? count / 2 : count;
  std::vector<std::int64_t> active;
  for (std::int64_t i = refresh * taken; i < (refresh + 1) * taken; ++i) {
    const std::int64_t place = i % round;
    active.push_back(order == BlockOrder::descending ? tensors - 1 - place : place);
    if (mirror) active.push_back(tensors - 1 - place);
  }
  std::sort(active.begin(), active.end());
  return active;
}

std::vector<std::int64_t> active_blocks(std::span<const std::int64_t> permutation, std::int64_t count) {
  STRATA_CHECK(0 <= count && count <= static_cast<std::int64_t>(permutation.size()),
               "a choice of as many as there are at most");
  std::vector<std::int64_t> active(permutation.begin(), permutation.begin() + count);
  std::sort(active.begin(), active.end());
  return active;
}

}  // namespace strata
