// Attention, backward: dQ. A block owns a tile of queries of one head and streams the keys and values that they see.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/attention_backward_tiles.h"

namespace strata::STRATA_GPU {
namespace {

template <int kColumns>
struct BackwardQueries : Backward<kColumns> {
  using Base = Backward<kColumns>;
  using Rows = std::conditional_t<(kColumns > 128), SharedRows<Base::kOwned, kColumns>, RegisterRows<kColumns>>;
  static constexpr int kKeysAt = 0, kValuesAt = Base::Stream::kBytes;
  static constexpr int kRowsAt = 2 * Base::Stream::kBytes, kGradientsAt = kRowsAt + Rows::kSharedBytes;
  static constexpr int kSharedBytes = kGradientsAt + Rows::kSharedBytes;
};

template <int kColumns>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(BackwardQueries<kColumns>::kThreads, BackwardQueries<kColumns>::kBlocks)
    attention_backward_queries_kernel(AttentionShape shape, const bf16* qkv, const bf16* d_o, const float* lse,
                                      const float* delta, bf16* dqkv) {
  using Plan = BackwardQueries<kColumns>;
  constexpr int kKeys = Plan::kStreamed;
  const int tiles = ceil_div(shape.T, Plan::kOwned);
  const AttentionBlock block(shape.N, tiles, 1);
  const int block_first = (tiles - 1 - block.tile) * Plan::kOwned;  // the longest first
  const int first = block_first + warp_index() * kWarpRows;         // query of this warp
  const int query = first + lane_index() / 4;                       // of this lane, and the one 8 rows later
  const int key_slot = shape.key_slot(block.head);
  const HeadRows<const bf16> keys = shape.qkv_rows(qkv, block.batch, key_slot);
  const HeadRows<const bf16> values = shape.qkv_rows(qkv, block.batch, key_slot + shape.K);
  const typename Plan::Stream key_tile(Plan::kKeysAt), value_tile(Plan::kValuesAt);
  const auto start_copy = [&](int tile) {
    key_tile.template start_copy<Plan::kThreads>(tile % 2, keys.from(tile * kKeys), shape.H);
    value_tile.template start_copy<Plan::kThreads>(tile % 2, values.from(tile * kKeys), shape.H);
  };

  start_copy(0);
  const auto queries = Plan::Rows::template start<Plan::kThreads>(
      Plan::kRowsAt, shape.qkv_rows(qkv, block.batch, block.head).from(block_first), shape.H);
  const auto gradients = Plan::Rows::template start<Plan::kThreads>(
      Plan::kGradientsAt, shape.o_rows(d_o, block.batch, block.head).from(block_first), shape.H);
  copy_async_commit();
  RowStatistics statistics[2];
  STRATA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = query + 8 * half;
    const std::int64_t at = shape.statistics_at(block.batch, block.head) + row;
    statistics[half] = {row < shape.T ? -kLog2E * lse[at] : -kInfinity, row < shape.T ? delta[at] : 0.0f};
  }

  Accumulator<kColumns> dq;
  dq.clear();
  const float factor = shape.scale * kLog2E;
  const int key_tiles = ceil_div(min_of(block_first + Plan::kOwned, shape.T), kKeys);
  for (int tile = 0; tile < key_tiles; ++tile) {
    copy_async_wait<0>();
    sync_block();  // and nobody reads the other stage any more
    if (tile + 1 < key_tiles) start_copy(tile + 1);
    copy_async_commit();
    const int key = tile * kKeys;
    if (first >= shape.T || key >= first + kWarpRows) continue;
    Accumulator<kKeys> p, ds;
    multiply_transposed(p, queries, key_tile, tile % 2);
    multiply_transposed(ds, gradients, value_tile, tile % 2);
    const bool diagonal = key + kKeys - 1 > first;
    STRATA_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      STRATA_UNROLL
      for (int e = 0; e < 4; ++e)
        softmax_backward(p.values[n][e], ds.values[n][e], diagonal && key + p.column(n, e) > query + e / 2 * 8, factor,
                         statistics[e / 2]);
    }
    multiply_add(dq, ds, key_tile, tile % 2);
  }
  if (first >= shape.T) return;
  const float scale[2] = {shape.scale, shape.scale};
  dq.store(shape.qkv_rows(dqkv, block.batch, block.head).from(first), scale, 0, shape.H);
}

}  // namespace

void attention_backward_queries_tensor(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue) {
  const AttentionShape shape = attention_shape(args);
  with_columns(args.H, [&]<int kColumns>() {
    using Plan = BackwardQueries<kColumns>;
    launch(queue, attention_backward_queries_kernel<kColumns>, {.x = args.B * args.N * blocks_for(args.T, Plan::kOwned)},
           Plan::kThreads, Plan::kSharedBytes, shape, args.qkv_RD.as<bf16>(), args.do_RE.as<bf16>(), args.lse_BNT.as<float>(),
           delta_BNT, args.dqkv_RD.as<bf16>());
  });
}

}  // namespace strata::STRATA_GPU
