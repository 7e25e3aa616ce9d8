// Token (and learned position) embedding.
// Threads and ordering of every kernel in this folder: the call enqueues on `stream` and returns; tensors must stay alive
// until the operation is complete; shapes and dtypes are checked at the call (ContractViolation). Bits do not depend on the
// number of threads. Compute dtype is f32 or bf16 (the dtype of x and w); gradients of parameters are always f32.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// y[r] = wte[tokens[r]] + (wpe ? wpe[r % T] : 0). Sums are made in f32 and rounded once.
// A token outside [0, V) is a Status error (Code::invalid_argument) of the operation that names row and value.
struct EmbeddingForwardArgs {
  ConstTensorRef tokens_R;  // i32
  ConstTensorRef wte_VC;
  ConstTensorRef wpe_TC;  // empty: no positions. Rows beyond T unused.
  TensorRef y_RC;
  std::int64_t T = 0;  // sequence length; R % T == 0
};
void embedding_forward(const EmbeddingForwardArgs& args, StreamRef stream);

// dwte[tokens[r]] += dy[r], dwpe[r % T] += dy[r], rows in order of r: the sum's order is fixed.
struct EmbeddingBackwardArgs {
  ConstTensorRef tokens_R;  // i32
  ConstTensorRef dy_RC;
  TensorRef dwte_VC;  // f32, accumulated into
  TensorRef dwpe_TC;  // f32, accumulated into; may be empty
  std::int64_t T = 0;
};
void embedding_backward(const EmbeddingBackwardArgs& args, StreamRef stream);

}  // namespace strata::kernels
