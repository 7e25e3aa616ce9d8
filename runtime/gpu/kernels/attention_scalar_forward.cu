// Attention forward on the scalar units.
#include "runtime/gpu/kernels/attention_scalar.h"

namespace strata::STRATA_GPU {
namespace {

// The largest, or the sum, of a row: over the 16 threads that hold it.
template <class Join>
STRATA_DEVICE float over_row(float value, Join join) {
  STRATA_UNROLL
  for (int mask = 8; mask > 0; mask /= 2) value = join(value, shuffle_xor(value, mask));
  return value;
}

template <class Element>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kThreads, 1)
    attention_forward_scalar_kernel(AttentionShape shape, const Element* qkv, Element* o, float* lse) {
  const int tiles = ceil_div(shape.T, kTileRows);
  const AttentionBlock block(shape.N, tiles, ceil_div(shape.H, kSlice));
  const int first = (tiles - 1 - block.tile) * kTileRows;  // the longest first
  const int slice = block.part * kSlice;
  const int key_slot = shape.key_slot(block.head);
  const HeadRows<const Element> queries = shape.qkv_rows(qkv, block.batch, block.head).from(first);
  const HeadRows<const Element> keys = shape.qkv_rows(qkv, block.batch, key_slot);
  const HeadRows<const Element> values = shape.qkv_rows(qkv, block.batch, key_slot + shape.K);
  const ScalarTiles shared;
  const float factor = shape.scale * kLog2E;

  SlicePart out;
  out.clear();
  float top[4], sum[4], inverse[4];
  STRATA_UNROLL
  for (int i = 0; i < 4; ++i) {
    top[i] = -kInfinity;  // factor * the largest score
    sum[i] = 0.0f;        // this thread's part of the sum of 2^(factor * score - top)
  }
  for (int key = 0; key <= first; key += kTileRows) {
    TilePart scores;
    shared.multiply_transposed(scores, queries, keys.from(key), shape.H);
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      float largest = -kInfinity;
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (key + thread_x() + 16 * j > first + thread_y() + 16 * i) scores.values[i][j] = -kInfinity;
        largest = max_of(largest, scores.values[i][j]);
      }
      const float now = max_of(top[i], factor * over_row(largest, [](float a, float b) { return max_of(a, b); }));
      const float decay = exp2_approx(top[i] - now);
      top[i] = now;
      sum[i] *= decay;
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j) sum[i] += scores.values[i][j] = exp2_approx(fma_rn(scores.values[i][j], factor, -now));
      STRATA_UNROLL
      for (int j = 0; j < 2; ++j) {
        STRATA_UNROLL
        for (int c = 0; c < 4; ++c) out.values[i][j][c] *= decay;
      }
    }
    shared.multiply_add(out, scores, values.from(key), slice, shape.H);
  }

  STRATA_UNROLL
  for (int i = 0; i < 4; ++i) {
    sum[i] = over_row(sum[i], [](float a, float b) { return a + b; });
    inverse[i] = 1.0f / sum[i];
    const int query = first + thread_y() + 16 * i;
    if (block.part == 0 && thread_x() == 0 && query < shape.T)
      lse[shape.statistics_at(block.batch, block.head) + query] = top[i] * kLn2 + log_approx(sum[i]);
  }
  out.store(shape.o_rows(o, block.batch, block.head).from(first), inverse, slice, shape.H);
}

}  // namespace

void attention_forward_scalar(const kernels::AttentionForwardArgs& args, GpuQueue& queue) {
  with_type(args.qkv_RD.dtype, [&]<class Element>() {
    launch(queue, attention_forward_scalar_kernel<Element>,
           {.x = args.B * args.N * blocks_for(args.T, kTileRows) * blocks_for(args.H, kSlice)}, kThreads, ScalarTiles::bytes(),
           attention_shape(args), args.qkv_RD.as<Element>(), args.o_RE.as<Element>(), args.lse_BNT.as<float>());
  });
}

}  // namespace strata::STRATA_GPU
