// Causal grouped-query attention as cuDNN's operation graphs: the patterns that its fused engines know. Layouts are those of
// runtime/kernels/attention.h, by strides.
#pragma once

#include "runtime/gpu/cuda/cudnn_plan.h"

#if STRATA_HAS_CUDNN

namespace strata {

// A part of an attention: sequences and heads next to each other.
struct CudnnAttentionPart {
  std::int64_t B = 0, T = 0, N = 0, K = 0, H = 0;
  std::int64_t qkv_row = 0, o_row = 0;                          // elements from a token to the next, of the whole
  auto operator<=>(const CudnnAttentionPart&) const = default;  // NOLINT(modernize-use-nullptr): mistaken by clang-tidy 14
};

// Names of the tensors that a plan is given.
namespace cudnn_tensor {
enum Name : std::int64_t {
  q = 1,
  k,
  v,
  o,
  lse,
  d_o,
  d_q,
  d_k,
  d_v,
  do_dot_o,  // f32 [B, N, T], overwritten by the backward
  scale,     // scalars
  masked,    // minus infinity
  one,
};
}  // namespace cudnn_tensor

// o = softmax(mask(scale q k^T)) v, lse = max + ln(sum exp(. - max)). Reads scale and masked.
void add_attention_forward(CudnnGraph& graph, const CudnnAttentionPart& part);
// dq, dk, dv. dS is kept whole, in the workspace, so that dq is one product and no sum of atomics. Reads scale, masked, one.
void add_attention_backward(CudnnGraph& graph, const CudnnAttentionPart& part);

}  // namespace strata

#endif
