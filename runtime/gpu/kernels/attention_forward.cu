// Attention, forward: a block owns a tile of queries of one head and streams the tiles of keys and values that they may see.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/attention_tiles.h"
#include "runtime/gpu/kernels/entries.h"

namespace strata::STRATA_GPU {
namespace {

template <int kColumns>
struct Forward {
  static constexpr bool kWide = kColumns > 128;
  static constexpr int kWarps = kWide || kColumns <= 64 ? 4 : 8, kThreads = kWarps * kWarp;
  static constexpr int kQueries = kWarps * kWarpRows, kKeys = kWide ? 32 : 64;
  static constexpr int kBlocks = kColumns <= 64 ? 3 : 1;  // on a multiprocessor: so many registers a thread may use
  using Rows = std::conditional_t<kWide, SharedRows<kQueries, kColumns>, RegisterRows<kColumns>>;
  using Stream = SharedTile<kKeys, kColumns, 2>;
  static constexpr int kKeysAt = 0, kValuesAt = Stream::kBytes, kRowsAt = 2 * Stream::kBytes;
  static constexpr int kSharedBytes = kRowsAt + Rows::kSharedBytes;
};

// Softmax of two rows a lane; the four lanes of a row agree. Unlike sums, maxima are of whole rows at any time.
struct OnlineSoftmax {
  float factor;                             // scale * log2(e)
  float top[2] = {-kInfinity, -kInfinity};  // factor * the largest score
  float sum[2] = {0.0f, 0.0f};              // of what this lane has seen of 2^(factor * score - top)

  // Scores become 2^(factor * score - top); decay is what earlier sums are multiplied by.
  template <int kKeys>
  STRATA_DEVICE void step(Accumulator<kKeys>& scores, float (&decay)[2]) {
    STRATA_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = -kInfinity;
      STRATA_UNROLL
      for (int n = 0; n < kKeys / 8; ++n)
        largest = max_of(largest, max_of(scores.values[n][2 * half], scores.values[n][2 * half + 1]));
      largest = max_of(largest, shuffle_xor(largest, 1));
      largest = max_of(largest, shuffle_xor(largest, 2));
      const float now = max_of(top[half], largest * factor);
      decay[half] = exp2_flushed(top[half] - now);
      top[half] = now;
      float added = 0.0f;
      STRATA_UNROLL
      for (int n = 0; n < kKeys / 8; ++n) {
        STRATA_UNROLL
        for (int e = 2 * half; e < 2 * half + 2; ++e)
          added += scores.values[n][e] = exp2_flushed(fma_rn(scores.values[n][e], factor, -now));
      }
      sum[half] = sum[half] * decay[half] + added;
    }
  }
  STRATA_DEVICE void finish() {
    STRATA_UNROLL
    for (int half = 0; half < 2; ++half) {
      sum[half] += shuffle_xor(sum[half], 1);
      sum[half] += shuffle_xor(sum[half], 2);
    }
  }
};

template <int kColumns>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(Forward<kColumns>::kThreads, Forward<kColumns>::kBlocks)
    attention_forward_kernel(AttentionShape shape, const bf16* qkv, bf16* o, float* lse) {
  using Plan = Forward<kColumns>;
  const int tiles = ceil_div(shape.T, Plan::kQueries);
  const AttentionBlock block(shape.N, tiles, 1);
  const int block_first = (tiles - 1 - block.tile) * Plan::kQueries;  // the longest first
  const int first = block_first + warp_index() * kWarpRows;           // query of this warp
  const int query = first + lane_index() / 4;                         // of this lane, and the one 8 rows later
  const int key_slot = shape.key_slot(block.head);
  const HeadRows<const bf16> keys = shape.qkv_rows(qkv, block.batch, key_slot);
  const HeadRows<const bf16> values = shape.qkv_rows(qkv, block.batch, key_slot + shape.K);
  const typename Plan::Stream key_tile(Plan::kKeysAt), value_tile(Plan::kValuesAt);
  const auto start_copy = [&](int tile) {
    key_tile.template start_copy<Plan::kThreads>(tile % 2, keys.from(tile * Plan::kKeys), shape.H);
    value_tile.template start_copy<Plan::kThreads>(tile % 2, values.from(tile * Plan::kKeys), shape.H);
  };

  start_copy(0);
  const auto rows = Plan::Rows::template start<Plan::kThreads>(
      Plan::kRowsAt, shape.qkv_rows(qkv, block.batch, block.head).from(block_first), shape.H);
  copy_async_commit();

  Accumulator<kColumns> out;
  out.clear();
  OnlineSoftmax softmax{.factor = shape.scale * kLog2E};
  const int last = min_of(block_first + Plan::kQueries, shape.T);
  const int key_tiles = ceil_div(last, Plan::kKeys);
  for (int tile = 0; tile < key_tiles; ++tile) {
    copy_async_wait<0>();
    sync_block();  // and nobody reads the other stage any more
    if (tile + 1 < key_tiles) start_copy(tile + 1);
    copy_async_commit();
    const int key = tile * Plan::kKeys;
    if (first >= shape.T || key >= first + kWarpRows) continue;
    Accumulator<Plan::kKeys> scores;
    multiply_transposed(scores, rows, key_tile, tile % 2);
    if (key + Plan::kKeys - 1 > first) {
      STRATA_UNROLL
      for (int n = 0; n < Plan::kKeys / 8; ++n) {
        STRATA_UNROLL
        for (int e = 0; e < 4; ++e)
          if (key + scores.column(n, e) > query + e / 2 * 8) scores.values[n][e] = -kInfinity;
      }
    }
    float decay[2];
    softmax.step(scores, decay);
    STRATA_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      STRATA_UNROLL
      for (int e = 0; e < 4; ++e) out.values[n][e] *= decay[e / 2];
    }
    multiply_add(out, scores, value_tile, tile % 2);
  }

  if (first >= shape.T) return;
  softmax.finish();
  const float inverse[2] = {1.0f / softmax.sum[0], 1.0f / softmax.sum[1]};
  out.store(shape.o_rows(o, block.batch, block.head).from(first), inverse, 0, shape.H);
  if (lane_index() % 4 != 0) return;
  float* to = lse + shape.statistics_at(block.batch, block.head);
  STRATA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = query + 8 * half;
    if (row < shape.T) to[row] = softmax.top[half] * kLn2 + log_approx(softmax.sum[half]);
  }
}

}  // namespace

void attention_forward_tensor(const kernels::AttentionForwardArgs& args, GpuQueue& queue) {
  const AttentionShape shape = attention_shape(args);
  with_columns(args.H, [&]<int kColumns>() {
    using Plan = Forward<kColumns>;
    launch(queue, attention_forward_kernel<kColumns>, {.x = args.B * args.N * blocks_for(args.T, Plan::kQueries)},
           Plan::kThreads, Plan::kSharedBytes, shape, args.qkv_RD.as<bf16>(), args.o_RE.as<bf16>(), args.lse_BNT.as<float>());
  });
}

void attention_forward(const kernels::AttentionForwardArgs& args, GpuQueue& queue) {
  if (args.qkv_RD.dtype == DType::bf16 && args.H <= kTensorColumns && can_pack<bf16>(args.H, args.qkv_RD.data, args.o_RE.data))
    attention_forward_tensor(args, queue);
  else
    attention_forward_scalar(args, queue);
}

}  // namespace strata::STRATA_GPU
