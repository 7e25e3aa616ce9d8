#include "runtime/gpu/cuda/cudnn_attention_graph.h"

#if STRATA_HAS_CUDNN

namespace strata {
namespace {

using Tensor = CudnnGraph::Tensor;
constexpr auto kF32 = CUDNN_DATA_FLOAT;
constexpr auto kBf16 = CUDNN_DATA_BFLOAT16;

// The tensors that both directions have.
class Sizes {
 public:
  Sizes(CudnnGraph& graph, const CudnnAttentionPart& part) : g_(graph), p_(part) {}

  // `heads` of them in rows of `row` elements.
  Tensor heads(std::int64_t id, std::int64_t heads, std::int64_t row) {
    return g_.memory(id, kBf16, {p_.B, heads, p_.T, p_.H}, {p_.T * row, p_.H, row, 1});
  }
  // The same memory, read as [H, T].
  Tensor transposed(std::int64_t id, std::int64_t heads, std::int64_t row) {
    return g_.memory(id, kBf16, {p_.B, heads, p_.H, p_.T}, {p_.T * row, p_.H, 1, row});
  }
  Tensor inner_heads(std::int64_t heads) { return g_.inner(kF32, {p_.B, heads, p_.T, p_.H}); }
  Tensor scores(cudnnDataType_t dtype = kF32) { return g_.inner(dtype, {p_.B, p_.N, p_.T, p_.T}); }
  Tensor scores_transposed() { return g_.inner(kBf16, {p_.B, p_.N, p_.T, p_.T}, {p_.N * p_.T * p_.T, p_.T * p_.T, 1, p_.T}); }
  Tensor queries() { return g_.inner(kF32, {p_.B, p_.N, p_.T, 1}); }
  Tensor queries(std::int64_t id) { return g_.memory(id, kF32, {p_.B, p_.N, p_.T, 1}, {p_.N * p_.T, p_.T, 1, 1}); }

  // Query t sees keys up to t.
  Tensor masked(Tensor s) {
    const Tensor query = g_.index_of(2, s, scores(CUDNN_DATA_INT32));
    const Tensor key = g_.index_of(3, s, scores(CUDNN_DATA_INT32));
    const Tensor seen = g_.greater_or_equal(query, key, scores(CUDNN_DATA_BOOLEAN));
    return g_.select(seen, s, g_.scalar(cudnn_tensor::masked), scores());
  }

 private:
  CudnnGraph& g_;
  const CudnnAttentionPart& p_;
};

}  // namespace

void add_attention_forward(CudnnGraph& g, const CudnnAttentionPart& p) {
  Sizes s(g, p);
  const Tensor product =
      g.matmul(s.heads(cudnn_tensor::q, p.N, p.qkv_row), s.transposed(cudnn_tensor::k, p.K, p.qkv_row), s.scores());
  const Tensor scaled = g.pointwise(CUDNN_POINTWISE_MUL, product, g.scalar(cudnn_tensor::scale), s.scores());
  const Tensor scores = s.masked(scaled);
  const Tensor top = g.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, s.queries());
  const Tensor below = g.pointwise(CUDNN_POINTWISE_SUB, scores, top, s.scores());
  const Tensor exponentials = g.pointwise(CUDNN_POINTWISE_EXP, below, s.scores());
  const Tensor sum = g.reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, s.queries());
  const Tensor log = g.pointwise(CUDNN_POINTWISE_LOG, sum, s.queries());
  g.pointwise(CUDNN_POINTWISE_ADD, top, log, s.queries(cudnn_tensor::lse));
  const Tensor probabilities = g.pointwise(CUDNN_POINTWISE_DIV, exponentials, sum, s.scores(kBf16));
  g.matmul(probabilities, s.heads(cudnn_tensor::v, p.K, p.qkv_row), s.heads(cudnn_tensor::o, p.N, p.o_row));
}

void add_attention_backward(CudnnGraph& g, const CudnnAttentionPart& p) {
  Sizes s(g, p);
  const Tensor q = s.heads(cudnn_tensor::q, p.N, p.qkv_row), k = s.transposed(cudnn_tensor::k, p.K, p.qkv_row);
  const Tensor v = s.transposed(cudnn_tensor::v, p.K, p.qkv_row), d_o = s.heads(cudnn_tensor::d_o, p.N, p.o_row);
  const Tensor scale = g.scalar(cudnn_tensor::scale);

  // Sums of do * o; the product with one stands where a dropout's would.
  const Tensor weighed = g.pointwise(CUDNN_POINTWISE_MUL, d_o, s.heads(cudnn_tensor::o, p.N, p.o_row), s.inner_heads(p.N));
  const Tensor summed = g.reduce(CUDNN_REDUCE_TENSOR_ADD, weighed, s.queries());
  const Tensor delta = g.pointwise(CUDNN_POINTWISE_MUL, summed, g.scalar(cudnn_tensor::one), s.queries(cudnn_tensor::do_dot_o));

  // Probabilities again, from lse.
  const Tensor product = g.matmul(q, k, s.scores());
  const Tensor scaled = g.pointwise(CUDNN_POINTWISE_MUL, product, scale, s.scores());
  const Tensor below = g.pointwise(CUDNN_POINTWISE_SUB, scaled, s.queries(cudnn_tensor::lse), s.scores());
  const Tensor probabilities = g.pointwise(CUDNN_POINTWISE_EXP, s.masked(below), s.scores());

  // Keys and values of a group get the sum over its queries.
  const auto to_keys = [&](Tensor a, Tensor b, std::int64_t id) {
    const Tensor result = s.heads(id, p.K, p.qkv_row);
    if (p.N == p.K) {
      g.matmul(a, b, result);
    } else {
      g.reduce(CUDNN_REDUCE_TENSOR_ADD, g.matmul(a, b, g.inner(kBf16, {p.B, p.N, p.T, p.H})), result);
    }
  };
  to_keys(g.reshape(probabilities, s.scores_transposed()), d_o, cudnn_tensor::d_v);

  const Tensor dp = g.matmul(d_o, v, s.scores());
  const Tensor centred = g.pointwise(CUDNN_POINTWISE_SUB, dp, delta, s.scores());
  const Tensor ds = g.pointwise(CUDNN_POINTWISE_MUL, centred, probabilities, s.scores());
  const Tensor ds_scaled = g.pointwise(CUDNN_POINTWISE_MUL, ds, scale, s.scores());
  to_keys(g.reshape(ds_scaled, s.scores_transposed()), q, cudnn_tensor::d_k);

  const CudnnDims rows = {p.B, p.K, p.T, p.H}, strides = {p.T * p.qkv_row, p.H, p.qkv_row, 1};
  g.matmul(ds_scaled, g.reshape(k, g.inner(kF32, rows, strides)), s.heads(cudnn_tensor::d_q, p.N, p.qkv_row));
}

}  // namespace strata

#endif
