// The sum of a reduction over ranks, in rank order. The order of the additions is the definition; what limits it is memory.
#include "parallel/gpu_kernels.h"
#include "runtime/gpu/kernels/access.h"

namespace strata::STRATA_GPU {
namespace {

template <bool kPacked>
STRATA_KERNEL rank_sum_kernel(RankSumArgs args) {
  using Values = Chunk<float, kPacked>;
  const std::int64_t i = (block_x() * block_threads() + thread_index()) * Values::kCount;
  if (i >= args.n) return;
  const auto contribution = [&](int rank) {
    if (rank == args.self) return Values::load(args.own + i);
    return Values::load(args.others + (rank < args.self ? rank : rank - 1) * args.stride + i);
  };
  Values sum = Values::load(args.overwrite ? (args.self == 0 ? args.own : args.others) + i : args.acc + i);
  for (int rank = args.overwrite ? 1 : 0; rank < args.ranks; ++rank) {
    const Values x = contribution(rank);
    for (int k = 0; k < Values::kCount; ++k) sum.values[k] = add_rn(sum.values[k], x.values[k]);
  }
  sum.store(args.acc + i);
}

template <bool kPacked>
void launch_rank_sum(const RankSumArgs& args, GpuQueue& queue) {
  const Grid grid{.x = blocks_for(args.n, kThreads * Chunk<float, kPacked>::kCount)};
  launch(queue, rank_sum_kernel<kPacked>, grid, kThreads, 0, args);
}

void add_in_rank_order(const RankSumArgs& args, GpuQueue& queue) {
  // The tail of less than 16 bytes goes through the other walk.
  const std::int64_t packed = args.n / Pack<float>::kCount * Pack<float>::kCount;
  const bool aligned = can_pack<float>(args.stride, args.acc, args.own, args.others) && packed > 0;
  RankSumArgs part = args;
  if (aligned) {
    part.n = packed;
    launch_rank_sum<true>(part, queue);
    part.acc += packed;
    part.own += packed;
    if (part.others != nullptr) part.others += packed;
    part.n = args.n - packed;
  }
  if (part.n > 0) launch_rank_sum<false>(part, queue);
}

}  // namespace

const ParallelGpuKernels& parallel_kernel_table() {
  static constexpr ParallelGpuKernels kTable{.add_in_rank_order = add_in_rank_order};
  return kTable;
}

}  // namespace strata::STRATA_GPU
