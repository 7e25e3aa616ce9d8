// Attention, backward: dK and dV. A block owns a tile of keys of one key head and streams the queries that see them, head after
// head of its group. Scores are transposed, [key][query], so that they are left operands of both products as they are.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/attention_backward_tiles.h"

namespace strata::STRATA_GPU {
namespace {

template <int kColumns>
struct BackwardKeys : Backward<kColumns> {
  using Base = Backward<kColumns>;
  using Rows = SharedRows<Base::kOwned, kColumns>;
  // Columns of dK and dV that a block computes: where a thread cannot hold all, blocks share them and repeat the scores.
  static constexpr int kParts = kColumns > 128 ? 2 : 1, kPart = kColumns / kParts;
  static constexpr int kQueriesAt = 0, kGradientsAt = Base::Stream::kBytes, kKeysAt = 2 * Base::Stream::kBytes;
  static constexpr int kValuesAt = kKeysAt + Rows::kSharedBytes, kStatisticsAt = kValuesAt + Rows::kSharedBytes;
  static constexpr int kStatistics = 2 * Base::kStreamed;  // of a stage: two words a query
  static_assert(kStatistics <= Base::kThreads);
  static constexpr int kSharedBytes = kStatisticsAt + 2 * kStatistics * static_cast<int>(sizeof(float));
};

template <int kColumns>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(BackwardKeys<kColumns>::kThreads, BackwardKeys<kColumns>::kBlocks)
    attention_backward_keys_kernel(AttentionShape shape, const bf16* qkv, const bf16* d_o, const float* lse, const float* delta,
                                   bf16* dqkv) {
  using Plan = BackwardKeys<kColumns>;
  constexpr int kQueries = Plan::kStreamed;
  const AttentionBlock block(shape.K, ceil_div(shape.T, Plan::kOwned), Plan::kParts);
  const int block_first = block.tile * Plan::kOwned;         // the first tiles are the longest
  const int first = block_first + warp_index() * kWarpRows;  // key of this warp
  const int key = first + lane_index() / 4;                  // of this lane, and the one 8 rows later
  const int key_slot = shape.N + block.head;

  // The stream: for every query head of the group, its tiles from the one that holds the block's first key.
  const int first_tile = block_first / kQueries;
  const int tiles_per_head = ceil_div(shape.T, kQueries) - first_tile;
  const int steps = shape.group() * tiles_per_head;
  const auto head_of = [&](int step) { return block.head * shape.group() + step / tiles_per_head; };
  const auto query_of = [&](int step) { return (first_tile + step % tiles_per_head) * kQueries; };
  const typename Plan::Stream query_tile(Plan::kQueriesAt), gradient_tile(Plan::kGradientsAt);
  const auto start_copy = [&](int step) {
    const int head = head_of(step), query = query_of(step);
    query_tile.template start_copy<Plan::kThreads>(step % 2, shape.qkv_rows(qkv, block.batch, head).from(query), shape.H);
    gradient_tile.template start_copy<Plan::kThreads>(step % 2, shape.o_rows(d_o, block.batch, head).from(query), shape.H);
  };
  // The statistics of a stage: shift and delta of each query in turn, a word a thread. A query that does not exist has
  // probability 0.
  const SharedArray<float> statistics = shared_array<float>(Plan::kStatisticsAt, 2 * Plan::kStatistics);
  const int word = thread_index();
  const auto load_statistic = [&](int step) {
    const int row = query_of(step) + word / 2;
    const std::int64_t at = shape.statistics_at(block.batch, head_of(step)) + row;
    if (word % 2 == 0) return row < shape.T ? -kLog2E * lse[at] : -kInfinity;
    return row < shape.T ? delta[at] : 0.0f;
  };

  start_copy(0);
  const auto keys = Plan::Rows::template start<Plan::kThreads>(
      Plan::kKeysAt, shape.qkv_rows(qkv, block.batch, key_slot).from(block_first), shape.H);
  const auto values = Plan::Rows::template start<Plan::kThreads>(
      Plan::kValuesAt, shape.qkv_rows(qkv, block.batch, key_slot + shape.K).from(block_first), shape.H);
  copy_async_commit();
  if (word < Plan::kStatistics) statistics[word] = load_statistic(0);

  Accumulator<Plan::kPart> dk, dv;
  dk.clear();
  dv.clear();
  constexpr int kPartSteps = Plan::kPart / 16;
  const float factor = shape.scale * kLog2E;
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<0>();
    sync_block();  // and nobody reads the other stage any more
    const bool loads = step + 1 < steps && word < Plan::kStatistics;
    float next = 0.0f;
    if (step + 1 < steps) start_copy(step + 1);
    copy_async_commit();
    if (loads) next = load_statistic(step + 1);  // stored after the products, which hide its way
    const int query = query_of(step);
    if (first < shape.T && query + kQueries > first) {
      Accumulator<kQueries> p, ds;
      multiply_transposed(p, keys, query_tile, step % 2);
      multiply_transposed(ds, values, gradient_tile, step % 2);
      const bool diagonal = query < first + kWarpRows - 1;
      STRATA_UNROLL
      for (int n = 0; n < kQueries / 8; ++n) {
        const Pack<float> pair = load_pack(statistics, step % 2 * Plan::kStatistics + 2 * p.column(n, 0));
        STRATA_UNROLL
        for (int e = 0; e < 4; ++e)
          softmax_backward(p.values[n][e], ds.values[n][e], diagonal && query + p.column(n, e) < key + e / 2 * 8, factor,
                           {pair[e % 2 * 2], pair[e % 2 * 2 + 1]});
      }
      multiply_add(dv, p, gradient_tile, step % 2, block.part * kPartSteps);
      multiply_add(dk, ds, query_tile, step % 2, block.part * kPartSteps);
    }
    if (loads) statistics[(step + 1) % 2 * Plan::kStatistics + word] = next;
  }
  if (first >= shape.T) return;
  const float scale[2] = {shape.scale, shape.scale}, one[2] = {1.0f, 1.0f};
  dk.store(shape.qkv_rows(dqkv, block.batch, key_slot).from(first), scale, block.part * Plan::kPart, shape.H);
  dv.store(shape.qkv_rows(dqkv, block.batch, key_slot + shape.K).from(first), one, block.part * Plan::kPart, shape.H);
}

}  // namespace

void attention_backward_keys_tensor(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue) {
  const AttentionShape shape = attention_shape(args);
  with_columns(args.H, [&]<int kColumns>() {
    using Plan = BackwardKeys<kColumns>;
    launch(queue, attention_backward_keys_kernel<kColumns>,
           {.x = args.B * args.K * blocks_for(args.T, Plan::kOwned) * Plan::kParts}, Plan::kThreads, Plan::kSharedBytes, shape,
           args.qkv_RD.as<bf16>(), args.do_RE.as<bf16>(), args.lse_BNT.as<float>(), delta_BNT, args.dqkv_RD.as<bf16>());
  });
}

}  // namespace strata::STRATA_GPU
