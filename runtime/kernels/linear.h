// y = x W^T + b and its two gradients, alone and with the GELU of activation.h behind or before it. W is (out, in) as in
// torch.nn.Linear; with `transposed` it lies in memory as (in, out), and so does its gradient. See embedding.h for threads and
// ordering.
// Sums over the inner dim are f32, also for bf16 operands, and are rounded once; denormal bf16 operands may count as zero
// (the bf16 instructions of AVX-512 do that). I and O are at least 1, R may be 0.
// Scratch on the host: at most 1 MiB a thread beside what oneDNN packs (about as much); a bf16 product without AVX-512 is
// converted tile by tile.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

struct LinearForwardArgs {
  ConstTensorRef x_RI;  // f32 or bf16
  ConstTensorRef w_OI;  // dtype of x
  ConstTensorRef b_O;   // dtype of x; may be empty
  TensorRef y_RO;       // dtype of x, or without a bias f32 (logits)
  bool transposed = false;
};
void linear_forward(const LinearForwardArgs& args, StreamRef stream);

// pre = x W^T + b and y = gelu(pre), in one operation. gelu may see the sums before they are rounded to pre, or after; the same
// shape on the same device always the same.
struct LinearGeluForwardArgs {
  ConstTensorRef x_RI;  // f32 or bf16
  ConstTensorRef w_OI;  // dtype of x
  ConstTensorRef b_O;   // dtype of x; may be empty
  // dtype of x. Also for a caller that has no use for it: a library that need not store pre may compute y by another algorithm,
  // and a forward that is run again for its backward must have the bits of the first.
  TensorRef pre_RO;
  TensorRef y_RO;  // dtype of x
  bool transposed = false;
};
void linear_gelu_forward(const LinearGeluForwardArgs& args, StreamRef stream);

// dx = dy W, or dx += dy W.
struct LinearBackwardInputArgs {
  ConstTensorRef dy_RO;  // f32 or bf16
  ConstTensorRef w_OI;   // dtype of dy
  TensorRef dx_RI;       // dtype of dy
  bool accumulate = false;
  bool transposed = false;
};
void linear_backward_input(const LinearBackwardInputArgs& args, StreamRef stream);

// dpre = (dy W) gelu'(pre), in one operation: the gradient through a layer whose input was gelu(pre).
struct GeluLinearBackwardInputArgs {
  ConstTensorRef dy_RO;   // f32 or bf16
  ConstTensorRef w_OI;    // dtype of dy
  ConstTensorRef pre_RI;  // dtype of dy
  TensorRef dpre_RI;      // dtype of dy; not the buffer of pre
  bool transposed = false;
};
void gelu_linear_backward_input(const GeluLinearBackwardInputArgs& args, StreamRef stream);

// dw += dy^T x and db += column sums of dy (rows summed in fixed blocks, in order).
struct LinearBackwardWeightArgs {
  ConstTensorRef dy_RO;    // f32 or bf16
  ConstTensorRef x_RI;     // dtype of dy
  TensorRef dw_OI;         // f32
  TensorRef db_O;          // f32; may be empty
  bool accumulate = true;  // false: dw = dy^T x, db = sums
  bool transposed = false;
};
void linear_backward_weight(const LinearBackwardWeightArgs& args, StreamRef stream);

}  // namespace strata::kernels
