// Causal grouped-query attention over fused qkv rows, by tiles with an online softmax: no T x T matrix is ever stored
// (FlashAttention-2, Dao 2023). See embedding.h for threads and ordering.
// Any T, and any H; bf16 is fastest where H is even. Sums are f32; bf16 probabilities are rounded to bf16 before they meet the
// values, as every fused kernel does. B * N * T / 64 tasks forward, B * K backward.
// Scratch on the host, a thread: forward 16 KiB + H KiB of its own; backward 48 KiB + 2 H KiB + 8 T H bytes, which the caller
// gives because they grow with the sequence.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// Row r = b*T + t of qkv: N query heads, K key heads, K value heads of H elements each; N % K == 0, query head n uses key
// and value head n / (N / K). o[r] holds N heads. lse[b, n, t] = log of the softmax denominator (natural log, scale included).
struct AttentionForwardArgs {
  ConstTensorRef qkv_RD;  // f32 or bf16, D = (N + 2K) * H
  TensorRef o_RE;         // dtype of qkv, E = N * H
  TensorRef lse_BNT;      // f32
  std::int64_t B = 0, T = 0, N = 0, K = 0, H = 0;
  float scale = 0.0f;  // usually 1 / sqrt(H)
};
void attention_forward(const AttentionForwardArgs& args, StreamRef stream);

struct AttentionShape {
  std::int64_t B = 0, T = 0, N = 0, K = 0, H = 0;
  float scale = 0.0f;
};
// Whether the device's attention takes the shape in bf16, before a run depends on it; makes what its calls will use. Always ok
// but on a GPU whose driver was asked for the vendor's attention. Error unsupported: why not, and what to do.
Status prepare_attention(const AttentionShape& shape, StreamRef stream);

struct AttentionBackwardArgs {
  ConstTensorRef qkv_RD, o_RE, do_RE;
  ConstTensorRef lse_BNT;  // f32
  TensorRef dqkv_RD;       // dtype of qkv, overwritten
  std::int64_t B = 0, T = 0, N = 0, K = 0, H = 0;
  float scale = 0.0f;
  TensorRef scratch_SW;  // f32, of attention_backward_scratch(), aligned to 64 bytes; overwritten
};
// S slots of W words: a slot for each of the device's threads that can find work. Depends on B, T, K, H and the threads alone,
// not on the instruction set.
Shape attention_backward_scratch(const AttentionBackwardArgs& args, const Device& device);
void attention_backward(const AttentionBackwardArgs& args, StreamRef stream);

}  // namespace strata::kernels
