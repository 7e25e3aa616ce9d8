// Pointwise activations. Computed in f32, rounded once. See embedding.h for threads and ordering.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// GELU, tanh approximation (Hendrycks and Gimpel 2016): y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
struct GeluForwardArgs {
  ConstTensorRef x;
  TensorRef y;  // shape of x
};
void gelu_forward(const GeluForwardArgs& args, StreamRef stream);
struct GeluBackwardArgs {
  ConstTensorRef x, dy;
  TensorRef dx;  // may be the same buffer as dy
};
void gelu_backward(const GeluBackwardArgs& args, StreamRef stream);

// SwiGLU (Shazeer 2020): each row of gate_up holds F gates and F ups; y = silu(gate) * up.
struct SwigluForwardArgs {
  ConstTensorRef gate_up_RG;  // G = 2F
  TensorRef y_RF;
};
void swiglu_forward(const SwigluForwardArgs& args, StreamRef stream);
struct SwigluBackwardArgs {
  ConstTensorRef gate_up_RG, dy_RF;
  TensorRef dgate_up_RG;  // may be the same buffer as gate_up
};
void swiglu_backward(const SwigluBackwardArgs& args, StreamRef stream);

}  // namespace strata::kernels
