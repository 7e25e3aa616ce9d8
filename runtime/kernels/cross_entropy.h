// Softmax cross-entropy, forward and backward in one pass over the logits. See embedding.h for threads and ordering.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

inline constexpr std::int32_t kIgnoreTarget = -100;

// loss[r] = logsumexp(logits[r]) - logits[r][target[r]], 0 where the target is kIgnoreTarget.
// With dlogits: dlogits = (softmax - one_hot) * scale (zero for ignored rows); may be the same buffer as logits.
// A target outside [0, V) that is not kIgnoreTarget is a Status error of the operation that names row and value.
struct CrossEntropyArgs {
  ConstTensorRef logits_RV;  // f32 or bf16
  ConstTensorRef targets_R;  // i32
  TensorRef loss_R;          // f32
  TensorRef dlogits_RV;      // dtype f32 or bf16; empty: loss only
  float scale = 1.0f;
};
void cross_entropy(const CrossEntropyArgs& args, StreamRef stream);

}  // namespace strata::kernels
