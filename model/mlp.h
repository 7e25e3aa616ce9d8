// Feed-forward layers of a transformer block.
#pragma once

#include <string>
#include <vector>

#include "model/layers.h"

namespace strata {

// What a block needs of its feed-forward layer. Both below save one tensor, the input of the activation: its output is
// recomputed in backward, one pass over memory.
class Mlp {
 public:
  virtual ~Mlp() = default;
  // x and the result are [R, C].
  virtual Tensor forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const = 0;
  // The backward in two parts, so that x need not exist during the first one. Returns the gradient of the activation's input.
  virtual Tensor backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const = 0;
  // dx may be the same buffer as x.
  virtual void backward_projection(const UnitContext& ctx, const ConstTensorRef& dpre, const ConstTensorRef& x_RC,
                                   const TensorRef& dx_RC) const = 0;
};

struct MlpOptions {
  std::int64_t C = 0, F = 0;
  Init init = Init::normal(0.02f);
  Init out_init = Init::normal(0.02f);
  bool long_rows = false;  // ModelConfig::long_rows
};

// y = W2 gelu(W1 x + b1) + b2. Parameters: <name>.up.weight [F, C], <name>.up.bias, <name>.down.weight [C, F],
// <name>.down.bias; with long rows, down and up are [F, C] and [C, F] where that is the higher form. Saves W1 x + b1: [R, F].
class GeluMlp : public Mlp {
 public:
  GeluMlp(std::vector<ParamSpec>& params, const std::string& name, const MlpOptions& options);
  Tensor forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const override;
  Tensor backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const override;
  void backward_projection(const UnitContext& ctx, const ConstTensorRef& dpre_RF, const ConstTensorRef& x_RC,
                           const TensorRef& dx_RC) const override;

 private:
  Linear up_, down_;
};

// y = W2 (silu(Wg x) * (Wu x)). Parameters: <name>.gate_up.weight [2F, C] (rows: gate, then up), <name>.down.weight [C, F],
// with long rows [F, C] where C < F. Saves [Wg x, Wu x]: [R, 2F].
class SwigluMlp : public Mlp {
 public:
  SwigluMlp(std::vector<ParamSpec>& params, const std::string& name, const MlpOptions& options);
  Tensor forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const override;
  Tensor backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const override;
  void backward_projection(const UnitContext& ctx, const ConstTensorRef& dpre_RG, const ConstTensorRef& x_RC,
                           const TensorRef& dx_RC) const override;

 private:
  std::int64_t F_;
  Linear gate_up_, down_;
};

}  // namespace strata
