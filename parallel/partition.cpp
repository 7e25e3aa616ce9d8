#include "parallel/partition.h"

#include <algorithm>

namespace strata {

std::vector<Slice> partition_blocks(std::int64_t numel, WorldSize world, std::int64_t block) {
  STRATA_CHECK(numel >= 0 && world.v >= 1 && block >= 1, "sizes are positive");
  const std::int64_t blocks = (numel + block - 1) / block;
  std::vector<Slice> slices;
  for (std::int64_t r = 0; r < world.v; ++r) {
    const std::int64_t first = std::min(numel, blocks * r / world.v * block);
    const std::int64_t end = std::min(numel, blocks * (r + 1) / world.v * block);
    slices.push_back({first, end - first});
  }
  return slices;
}

std::vector<Slice> cut_records(Slice slice, std::int64_t size) {
  STRATA_CHECK(size >= 1, "a record is not empty");
  std::vector<Slice> records;
  for (std::int64_t first = slice.first; first < slice.end(); first += size)
    records.push_back({first, std::min(size, slice.end() - first)});
  return records;
}

}  // namespace strata
