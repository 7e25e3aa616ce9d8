// y = x W^T + b and its two gradients. W is (out, in) as in torch.nn.Linear. See embedding.h for threads and ordering.
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
  TensorRef y_RO;       // dtype of x, or f32 (logits)
};
void linear_forward(const LinearForwardArgs& args, StreamRef stream);

// dx = dy W, or dx += dy W.
struct LinearBackwardInputArgs {
  ConstTensorRef dy_RO;  // f32 or bf16
  ConstTensorRef w_OI;   // dtype of dy
  TensorRef dx_RI;       // dtype of dy
  bool accumulate = false;
};
void linear_backward_input(const LinearBackwardInputArgs& args, StreamRef stream);

// dw += dy^T x and db += column sums of dy (rows summed in fixed blocks, in order).
struct LinearBackwardWeightArgs {
  ConstTensorRef dy_RO;    // f32 or bf16
  ConstTensorRef x_RI;     // dtype of dy
  TensorRef dw_OI;         // f32
  TensorRef db_O;          // f32; may be empty
  bool accumulate = true;  // false: dw = dy^T x, db = sums
};
void linear_backward_weight(const LinearBackwardWeightArgs& args, StreamRef stream);

}  // namespace strata::kernels
