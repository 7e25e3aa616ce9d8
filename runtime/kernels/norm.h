// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019), fused with the residual addition before them.
// Statistics are f32 whatever the dtype. See embedding.h for threads and ordering.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// s = x + residual (when residual is given; stored in sum_RC, rounded to the dtype first), else s = x.
// layer: y = (s - mean) * rstd * w + b.   rms: y = s * rstd * w, rstd = 1 / sqrt(mean(s^2) + eps).
struct NormForwardArgs {
  ConstTensorRef x_RC;
  ConstTensorRef residual_RC;  // may be empty
  TensorRef sum_RC;            // required with residual; may be the same buffer as x or residual
  ConstTensorRef w_C;
  ConstTensorRef b_C;  // layernorm only; may be empty
  TensorRef y_RC;
  TensorRef mean_R;  // f32; layernorm only
  TensorRef rstd_R;  // f32
  float eps = 1e-5f;
};
void layernorm_forward(const NormForwardArgs& args, StreamRef stream);
void rmsnorm_forward(const NormForwardArgs& args, StreamRef stream);

// dx = gradient with respect to s, plus dresidual when given (the gradient that reached s by another way):
// dx may be the same buffer as dy or dresidual. dw, db are accumulated over rows in fixed blocks, in order.
struct NormBackwardArgs {
  ConstTensorRef dy_RC;
  ConstTensorRef s_RC;  // the normalised input
  ConstTensorRef w_C;
  ConstTensorRef mean_R;  // layernorm only
  ConstTensorRef rstd_R;
  ConstTensorRef dresidual_RC;  // may be empty
  TensorRef dx_RC;
  TensorRef dw_C;  // f32, accumulated into
  TensorRef db_C;  // f32, accumulated into; layernorm with bias only
};
void layernorm_backward(const NormBackwardArgs& args, StreamRef stream);
void rmsnorm_backward(const NormBackwardArgs& args, StreamRef stream);

// RMSNorm of every query and key head of a fused qkv row (Qwen3), values copied. qkv row: N query, K key, K value heads of H.
struct HeadNormForwardArgs {
  ConstTensorRef in_RD;  // D = (N + 2K) * H
  ConstTensorRef wq_H, wk_H;
  TensorRef out_RD;   // not the same buffer as in
  TensorRef rstd_RM;  // f32, M = N + K
  std::int64_t N = 0, K = 0, H = 0;
  float eps = 1e-6f;
};
void head_rmsnorm_forward(const HeadNormForwardArgs& args, StreamRef stream);

struct HeadNormBackwardArgs {
  TensorRef dqkv_RD;  // in: gradient of out; out: gradient of in (in place)
  ConstTensorRef in_RD;
  ConstTensorRef wq_H, wk_H;
  ConstTensorRef rstd_RM;
  TensorRef dwq_H, dwk_H;  // f32, accumulated into
  std::int64_t N = 0, K = 0, H = 0;
};
void head_rmsnorm_backward(const HeadNormBackwardArgs& args, StreamRef stream);

}  // namespace strata::kernels
