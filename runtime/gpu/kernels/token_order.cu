// A merge sort: runs of one block in shared memory, then rounds in which every key finds its place in the union of two runs by
// a binary search in the other one. Keys are few (8 bytes a row of C values) and stay in the L2 cache.
#include <utility>

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/token_order.h"

namespace strata::STRATA_GPU {
namespace {

STRATA_KERNEL sort_runs_kernel(const std::int32_t* tokens, std::int64_t R, std::int64_t V, TokenKey* keys, GpuFault* fault) {
  const auto run = shared_array<TokenKey>(0, kThreads);
  const std::int64_t base = block_x() * kThreads;
  const int count = R - base < kThreads ? static_cast<int>(R - base) : kThreads;
  const int own = thread_index();
  TokenKey key = 0;
  if (own < count) {
    const std::int64_t r = base + own;
    const std::int32_t token = tokens[r];
    const bool valid = token >= 0 && token < V;
    if (!valid) report_fault(fault, GpuFaultKind::token_outside_vocabulary, r, token, V);
    key = TokenKey{valid ? static_cast<std::uint32_t>(token) : kNoToken} << 32 | static_cast<std::uint32_t>(r);
    run[own] = key;
  }
  sync_block();
  if (own >= count) return;
  int smaller = 0;
  for (int i = 0; i < count; ++i) smaller += run[i] < key ? 1 : 0;
  keys[base + smaller] = key;
}

// Merges each pair of neighbouring sorted runs of `width` keys; the last run may be shorter or alone.
STRATA_KERNEL merge_runs_kernel(const TokenKey* from, TokenKey* to, std::int64_t R, std::int64_t width) {
  const std::int64_t i = block_x() * kThreads + thread_index();
  if (i >= R) return;
  const std::int64_t begin = i / (2 * width) * (2 * width);
  const std::int64_t middle = begin + width < R ? begin + width : R;
  const std::int64_t end = middle + width < R ? middle + width : R;
  const bool in_first = i < middle;
  const std::int64_t other = in_first ? middle : begin;
  const TokenKey key = from[i];
  std::int64_t low = other,
               high = in_first ? end : middle;  // keys of the other run below `low` are smaller, from `high` larger
  while (low < high) {
    const std::int64_t probe = low + (high - low) / 2;
    if (from[probe] < key)
      low = probe + 1;
    else
      high = probe;
  }
  const std::int64_t before = i - (in_first ? begin : middle);
  to[begin + before + (low - other)] = key;
}

}  // namespace

const TokenKey* order_tokens(const std::int32_t* tokens_R, std::int64_t R, std::int64_t V, std::byte* scratch,
                             GpuQueue& queue) {
  const Grid grid = {.x = blocks_for(R, kThreads)};
  auto* from = reinterpret_cast<TokenKey*>(scratch);
  TokenKey* to = from + R;
  launch(queue, sort_runs_kernel, grid, kThreads, kThreads * sizeof(TokenKey), tokens_R, R, V, from, queue.fault());
  for (std::int64_t width = kThreads; width < R; width *= 2) {
    launch(queue, merge_runs_kernel, grid, kThreads, 0, static_cast<const TokenKey*>(from), to, R, width);
    std::swap(from, to);
  }
  return from;
}

}  // namespace strata::STRATA_GPU
