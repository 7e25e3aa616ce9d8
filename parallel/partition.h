// How a flat range is cut over ranks, into norm blocks and into records. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/communicator.h"

namespace strata {

// Cuts [0, numel) over ranks at multiples of `block` (the last block may be short): rank r owns blocks
// [r*B/W, (r+1)*B/W) of the B = ceil(numel / block). Slices are contiguous, in rank order, and may be empty.
std::vector<Slice> partition_blocks(std::int64_t numel, WorldSize world, std::int64_t block);

// Cuts `slice` into pieces of `size` elements, counted from slice.first; the last may be shorter.
std::vector<Slice> cut_records(Slice slice, std::int64_t size);

}  // namespace strata
