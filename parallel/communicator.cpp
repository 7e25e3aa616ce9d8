#include "parallel/communicator.h"

#include <numeric>

namespace strata {

void Communicator::all_gather(const AllGatherArgs& args, StreamRef stream) {
  STRATA_CHECK(args.slices.size() == static_cast<std::size_t>(size().v), "one slice a rank");
  enqueue_all_gather(args, stream);
}

void Communicator::reduce_scatter_add(const ReduceScatterArgs& args, StreamRef stream) {
  STRATA_CHECK(args.slices.size() == static_cast<std::size_t>(size().v), "one slice a rank");
  enqueue_reduce_scatter_add(args, stream);
}

void Communicator::enqueue_all_gather(const AllGatherArgs& args, StreamRef stream) {
  stream.enqueue(args.what, [this, args] { return do_all_gather(args); });
}

void Communicator::enqueue_reduce_scatter_add(const ReduceScatterArgs& args, StreamRef stream) {
  stream.enqueue(args.what, [this, args] { return do_reduce_scatter_add(args); });
}

// First the sizes, then the bytes.
Result<std::vector<std::vector<std::byte>>> Communicator::gather_all(std::span<const std::byte> mine, const char* what) {
  const auto ranks = static_cast<std::size_t>(size().v);
  std::vector<std::int64_t> sizes(ranks);
  sizes[static_cast<std::size_t>(rank().v)] = static_cast<std::int64_t>(mine.size());
  std::vector<Slice> slices;
  for (std::size_t r = 0; r < ranks; ++r) slices.push_back({static_cast<std::int64_t>(r), 1});
  STRATA_RETURN_IF_ERROR(
      do_all_gather({.full = sizes.data(), .element_size = sizeof(std::int64_t), .slices = slices, .what = what}));

  std::int64_t total = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    slices[r] = {total, sizes[r]};
    total += sizes[r];
  }
  std::vector<std::byte> all(static_cast<std::size_t>(total));
  const void* const shard = mine.empty() ? all.data() : mine.data();
  STRATA_RETURN_IF_ERROR(
      do_all_gather({.shard = shard, .full = all.data(), .element_size = 1, .slices = slices, .what = what}));
  std::vector<std::vector<std::byte>> by_rank;
  for (const Slice& slice : slices) by_rank.emplace_back(all.begin() + slice.first, all.begin() + slice.end());
  return by_rank;
}

Status Communicator::broadcast(std::span<std::byte> bytes, Rank root, const char* what) {
  STRATA_CHECK(root.v >= 0 && root.v < size().v, "the root is a rank of the group");
  std::vector<Slice> slices(static_cast<std::size_t>(size().v));
  slices[static_cast<std::size_t>(root.v)] = {0, static_cast<std::int64_t>(bytes.size())};
  return do_all_gather({.full = bytes.data(), .element_size = 1, .slices = slices, .what = what});
}

}  // namespace strata
