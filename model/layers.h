// Layers: the pieces of which units are composed, each with an explicit forward and backward. A layer is built with the
// list of its unit's parameters, appends its own and remembers where they are; it holds no data and may be used by one
// thread at a time. What a forward keeps for its backward it pushes on `saved` (a stack; null: nothing is kept); the
// backwards run in the opposite order and pop it. A backward accumulates into ctx.grads.
// Ordering and shapes: see unit.h and tensor.h; every call enqueues on ctx.stream and returns.
#pragma once

#include <string>
#include <vector>

#include "model/unit.h"

namespace strata {

// Takes the tensor on top of the stack.
Tensor pop(Saved& saved);

// y = x W^T + b with W (out, in), as torch.nn.Linear. Parameters: <name>.weight, and <name>.bias where there is one (starts
// at zero, no weight decay). Saves nothing: backward_weight needs the forward's input again.
// transposed: the weight and its gradient are stored as (in, out), which the matrix products take as well.
class Linear {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    bool bias = false;
    Init init = Init::normal(0.02f);
    bool transposed = false;
    std::vector<std::int64_t> parts = {};  // rows of the matrices that W stacks (ParamSpec::parts); not with transposed
  };
  Linear(std::vector<ParamSpec>& params, const std::string& name, const Options& options);

  Tensor forward(const UnitContext& ctx, const ConstTensorRef& x_RI, const char* what) const;
  // The same with gelu behind it: y = gelu(pre), pre = x W^T + b.
  struct WithGelu {
    Tensor pre_RO, y_RO;
  };
  WithGelu forward_gelu(const UnitContext& ctx, const ConstTensorRef& x_RI, const char* what) const;
  // dW += dy^T x, db += column sums of dy.
  void backward_weight(const UnitContext& ctx, const ConstTensorRef& dy_RO, const ConstTensorRef& x_RI) const;
  // dx = dy W
  void backward_input(const UnitContext& ctx, const ConstTensorRef& dy_RO, const TensorRef& dx_RI) const;
  // Of a layer whose input was gelu(pre): dpre = (dy W) gelu'(pre). dpre is not pre's buffer.
  void backward_input_gelu(const UnitContext& ctx, const ConstTensorRef& dy_RO, const ConstTensorRef& pre_RI,
                           const TensorRef& dpre_RI) const;

 private:
  ConstTensorRef bias(const UnitContext& ctx) const { return bias_ ? ctx.params[weight_ + 1] : ConstTensorRef(); }

  std::int64_t out_;
  std::size_t weight_;
  bool bias_;  // at weight_ + 1
  bool transposed_;
};

// Whether a model with long rows (ModelConfig::long_rows) stores a weight of one matrix (out, in) transposed: so that its
// longer dim is its rows.
inline bool lies_along_input(bool long_rows, std::int64_t in, std::int64_t out) { return long_rows && out < in; }

// A normalised tensor and the statistics its backward needs.
struct Normed {
  Tensor y_RC;
  Tensor mean_R;  // f32; layer norm only
  Tensor rstd_R;  // f32
};

// LayerNorm with bias, or RMSNorm. Parameters: <name>.weight (ones), layer norm: <name>.bias (zeros); neither decays.
// Saves nothing: a backward repeats forward(), which is one pass over memory, and gets output and statistics with the same
// bits. That is cheaper than keeping the output, which the next linear layer's gradient needs.
class Norm {
 public:
  enum class Kind { layer, rms };
  Norm(std::vector<ParamSpec>& params, const std::string& name, Kind kind, std::int64_t C, double eps);

  Normed forward(const UnitContext& ctx, const ConstTensorRef& s_RC) const;
  // sum = x + residual, then as above. sum may be the same buffer as x or residual.
  Normed forward_residual(const UnitContext& ctx, const ConstTensorRef& x_RC, const ConstTensorRef& residual_RC,
                          const TensorRef& sum_RC) const;
  // dx = gradient of s through the norm, plus dresidual (may be empty). dx may be the same buffer as dy or dresidual.
  void backward(const UnitContext& ctx, const ConstTensorRef& dy_RC, const ConstTensorRef& s_RC, const Normed& normed,
                const ConstTensorRef& dresidual_RC, const TensorRef& dx_RC) const;

 private:
  Normed run(const UnitContext& ctx, const ConstTensorRef& x, const ConstTensorRef& residual, const TensorRef& sum) const;
  Kind kind_;
  std::size_t weight_;  // layer norm: bias at weight_ + 1
  float eps_;
};

}  // namespace strata
