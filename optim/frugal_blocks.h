// Which whole tensors FRUGAL trains with states (arXiv 2411.07837, as the authors' Block classes walk them).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/status.h"

namespace strata {

// Tensors in the order of the model. descending: from the last one towards the first, and round; ascending: the other way;
// mirror: pairs of the i-th from both ends (the middle one of an odd number never); random: a new choice at each refresh.
enum class BlockOrder : std::uint8_t { random, ascending, descending, mirror };

// density times `tensors`, halves to the even number. Error invalid_config: order mirror, and it is odd.
Result<std::int64_t> active_block_count(BlockOrder order, std::int64_t tensors, double density);

// The tensors of choice number `refresh`, counted from 0, ascending; count <= tensors, of order mirror even. seed: of the run,
// for order random.
std::vector<std::int64_t> active_blocks(BlockOrder order, std::int64_t tensors, std::int64_t count, std::int64_t refresh,
                                        std::uint64_t seed);
// Order random with a permutation from elsewhere.
std::vector<std::int64_t> active_blocks(std::span<const std::int64_t> permutation, std::int64_t count);

}  // namespace strata
