// Attention backward on the scalar units: dK and dV from blocks that own keys, dQ from blocks that own queries.
#include "runtime/gpu/kernels/attention_scalar.h"

namespace strata::STRATA_GPU {
namespace {

// A score becomes its probability, and the gradient of the probability that of the score, without the factor scale. lse of a
// query that does not exist is infinite.
STRATA_DEVICE void softmax_backward(float& score, float& gradient, bool masked, float factor, float lse, float delta) {
  score = masked ? 0.0f : exp2_approx(fma_rn(score, factor, -kLog2E * lse));
  gradient = score * (gradient - delta);
}

template <class Element>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kThreads, 1)
    attention_backward_keys_scalar_kernel(AttentionShape shape, const Element* qkv, const Element* d_o, const float* lse,
                                          const float* delta, Element* dqkv) {
  const AttentionBlock block(shape.K, ceil_div(shape.T, kTileRows), ceil_div(shape.H, kSlice));
  const int first = block.tile * kTileRows;  // the first tiles are the longest
  const int slice = block.part * kSlice;
  const int key_slot = shape.N + block.head;
  const HeadRows<const Element> keys = shape.qkv_rows(qkv, block.batch, key_slot).from(first);
  const HeadRows<const Element> values = shape.qkv_rows(qkv, block.batch, key_slot + shape.K).from(first);
  const ScalarTiles shared;

  SlicePart dk, dv;
  dk.clear();
  dv.clear();
  for (int head = block.head * shape.group(); head < (block.head + 1) * shape.group(); ++head) {
    const std::int64_t statistics = shape.statistics_at(block.batch, head);
    for (int query = first; query < shape.T; query += kTileRows) {
      const HeadRows<const Element> queries = shape.qkv_rows(qkv, block.batch, head).from(query);
      const HeadRows<const Element> gradients = shape.o_rows(d_o, block.batch, head).from(query);
      TilePart p, ds;  // [key][query]
      shared.multiply_transposed(p, keys, queries, shape.H);
      shared.multiply_transposed(ds, values, gradients, shape.H);
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int row = query + thread_x() + 16 * j;
        const float row_lse = row < shape.T ? lse[statistics + row] : kInfinity;
        const float row_delta = row < shape.T ? delta[statistics + row] : 0.0f;
        STRATA_UNROLL
        for (int i = 0; i < 4; ++i)
          softmax_backward(p.values[i][j], ds.values[i][j], first + thread_y() + 16 * i > row, shape.scale * kLog2E, row_lse,
                           row_delta);
      }
      shared.multiply_add(dv, p, gradients, slice, shape.H);
      shared.multiply_add(dk, ds, queries, slice, shape.H);
    }
  }
  const float scale = shape.scale;
  dk.store(shape.qkv_rows(dqkv, block.batch, key_slot).from(first), {scale, scale, scale, scale}, slice, shape.H);
  dv.store(shape.qkv_rows(dqkv, block.batch, key_slot + shape.K).from(first), {1.0f, 1.0f, 1.0f, 1.0f}, slice, shape.H);
}

template <class Element>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kThreads, 1)
    attention_backward_queries_scalar_kernel(AttentionShape shape, const Element* qkv, const Element* d_o, const float* lse,
                                             const float* delta, Element* dqkv) {
  const int tiles = ceil_div(shape.T, kTileRows);
  const AttentionBlock block(shape.N, tiles, ceil_div(shape.H, kSlice));
  const int first = (tiles - 1 - block.tile) * kTileRows;  // the longest first
  const int slice = block.part * kSlice;
  const int key_slot = shape.key_slot(block.head);
  const HeadRows<const Element> queries = shape.qkv_rows(qkv, block.batch, block.head).from(first);
  const HeadRows<const Element> gradients = shape.o_rows(d_o, block.batch, block.head).from(first);
  const ScalarTiles shared;
  float row_lse[4], row_delta[4];
  STRATA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = first + thread_y() + 16 * i;
    const std::int64_t at = shape.statistics_at(block.batch, block.head) + row;
    row_lse[i] = row < shape.T ? lse[at] : kInfinity;
    row_delta[i] = row < shape.T ? delta[at] : 0.0f;
  }

  SlicePart dq;
  dq.clear();
  for (int key = 0; key <= first; key += kTileRows) {
    const HeadRows<const Element> keys = shape.qkv_rows(qkv, block.batch, key_slot).from(key);
    const HeadRows<const Element> values = shape.qkv_rows(qkv, block.batch, key_slot + shape.K).from(key);
    TilePart p, ds;  // [query][key]
    shared.multiply_transposed(p, queries, keys, shape.H);
    shared.multiply_transposed(ds, gradients, values, shape.H);
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j)
        softmax_backward(p.values[i][j], ds.values[i][j], key + thread_x() + 16 * j > first + thread_y() + 16 * i,
                         shape.scale * kLog2E, row_lse[i], row_delta[i]);
    }
    shared.multiply_add(dq, ds, keys, slice, shape.H);
  }
  const float scale = shape.scale;
  dq.store(shape.qkv_rows(dqkv, block.batch, block.head).from(first), {scale, scale, scale, scale}, slice, shape.H);
}

}  // namespace

void attention_backward_scalar(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue) {
  const AttentionShape shape = attention_shape(args);
  const std::int64_t per_head = blocks_for(args.T, kTileRows) * blocks_for(args.H, kSlice);
  with_type(args.qkv_RD.dtype, [&]<class Element>() {
    const Element* qkv = args.qkv_RD.as<Element>();
    const Element* d_o = args.do_RE.as<Element>();
    const float* lse = args.lse_BNT.as<float>();
    Element* dqkv = args.dqkv_RD.as<Element>();
    launch(queue, attention_backward_keys_scalar_kernel<Element>, {.x = args.B * args.K * per_head}, kThreads,
           ScalarTiles::bytes(), shape, qkv, d_o, lse, delta_BNT, dqkv);
    launch(queue, attention_backward_queries_scalar_kernel<Element>, {.x = args.B * args.N * per_head}, kThreads,
           ScalarTiles::bytes(), shape, qkv, d_o, lse, delta_BNT, dqkv);
  });
}

}  // namespace strata::STRATA_GPU
