#include "model/mlp.h"

#include "runtime/kernels/activation.h"

namespace strata {

GeluMlp::GeluMlp(std::vector<ParamSpec>& params, const std::string& name, const MlpOptions& o)
    : up_(params, name + ".up",
          {.in = o.C, .out = o.F, .bias = true, .init = o.init, .transposed = lies_along_input(o.long_rows, o.C, o.F)}),
      down_(params, name + ".down",
            {.in = o.F, .out = o.C, .bias = true, .init = o.out_init, .transposed = lies_along_input(o.long_rows, o.F, o.C)}) {}

Tensor GeluMlp::forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const {
  auto [pre_RF, act_RF] = up_.forward_gelu(ctx, x_RC, "mlp up");
  if (saved != nullptr)
    saved->push_back(std::move(pre_RF));
  else
    pre_RF.reset();
  return down_.forward(ctx, act_RF, "mlp down");
}

Tensor GeluMlp::backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const {
  const Tensor pre_RF = pop(saved);
  // Of pre as it was stored. The forward's may be of the sums before they were rounded: then they differ by what one rounding
  // of pre to bf16 does to gelu, whose slope is below 1.13. That is no more than the other errors of a bf16 gradient;
  // gelu'(pre) below has the same one.
  Tensor act_RF = ctx.activation(pre_RF.shape(), "gelu");
  kernels::gelu_forward({.x = pre_RF, .y = act_RF}, ctx.stream);
  down_.backward_weight(ctx, dy_RC, act_RF);
  Tensor dpre_RF = std::move(act_RF);  // the activation is done with: its buffer takes the gradients
  down_.backward_input_gelu(ctx, dy_RC, pre_RF, dpre_RF);
  return dpre_RF;
}

void GeluMlp::backward_projection(const UnitContext& ctx, const ConstTensorRef& dpre_RF, const ConstTensorRef& x_RC,
                                  const TensorRef& dx_RC) const {
  up_.backward_weight(ctx, dpre_RF, x_RC);
  up_.backward_input(ctx, dpre_RF, dx_RC);
}

SwigluMlp::SwigluMlp(std::vector<ParamSpec>& params, const std::string& name, const MlpOptions& o)
    : F_(o.F),
      gate_up_(params, name + ".gate_up", {.in = o.C, .out = 2 * o.F, .init = o.init, .parts = {o.F, o.F}}),
      down_(params, name + ".down",
            {.in = o.F, .out = o.C, .init = o.out_init, .transposed = lies_along_input(o.long_rows, o.F, o.C)}) {}

Tensor SwigluMlp::forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const {
  Tensor gate_up_RG = gate_up_.forward(ctx, x_RC, "mlp gate_up");
  const Tensor act_RF = ctx.activation({x_RC.shape[0], F_}, "swiglu");
  kernels::swiglu_forward({.gate_up_RG = gate_up_RG, .y_RF = act_RF}, ctx.stream);
  if (saved != nullptr)
    saved->push_back(std::move(gate_up_RG));
  else
    gate_up_RG.reset();
  return down_.forward(ctx, act_RF, "mlp down");
}

Tensor SwigluMlp::backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const {
  Tensor gate_up_RG = pop(saved);
  const Tensor act_RF = ctx.activation({gate_up_RG.shape()[0], F_}, "swiglu");
  kernels::swiglu_forward({.gate_up_RG = gate_up_RG, .y_RF = act_RF}, ctx.stream);
  down_.backward_weight(ctx, dy_RC, act_RF);
  down_.backward_input(ctx, dy_RC, act_RF);  // the activation is done with: its buffer takes its gradient
  kernels::swiglu_backward({.gate_up_RG = gate_up_RG, .dy_RF = act_RF, .dgate_up_RG = gate_up_RG}, ctx.stream);
  return gate_up_RG;
}

void SwigluMlp::backward_projection(const UnitContext& ctx, const ConstTensorRef& dpre_RG, const ConstTensorRef& x_RC,
                                    const TensorRef& dx_RC) const {
  gate_up_.backward_weight(ctx, dpre_RG, x_RC);
  gate_up_.backward_input(ctx, dpre_RG, dx_RC);
}

}  // namespace strata
