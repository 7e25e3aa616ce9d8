#include "model/layers.h"

#include <numeric>

#include "runtime/kernels/linear.h"
#include "runtime/kernels/norm.h"

namespace strata {

Tensor pop(Saved& saved) {
  STRATA_CHECK(!saved.empty(), "backward without the tensors its forward saves");
  Tensor top = std::move(saved.back());
  saved.pop_back();
  return top;
}

Linear::Linear(std::vector<ParamSpec>& params, const std::string& name, const Options& options)
    : out_(options.out), weight_(params.size()), bias_(options.bias), transposed_(options.transposed) {
  const std::vector<std::int64_t>& parts = options.parts;
  STRATA_CHECK(
      parts.empty() || (!options.transposed && std::accumulate(parts.begin(), parts.end(), std::int64_t{0}) == options.out),
      "the parts of " + name + " are all of its rows, and it is not transposed");
  params.push_back({.name = name + ".weight",
                    .shape = options.transposed ? Shape{options.in, options.out} : Shape{options.out, options.in},
                    .init = options.init,
                    .projected = true,
                    .transposed = options.transposed,
                    .parts = parts});
  if (bias_) params.push_back({name + ".bias", Shape{options.out}, Init::constant(0.0f), false});
}

Tensor Linear::forward(const UnitContext& ctx, const ConstTensorRef& x_RI, const char* what) const {
  Tensor y_RO = ctx.activation({x_RI.shape[0], out_}, what);
  kernels::linear_forward(
      {.x_RI = x_RI, .w_OI = ctx.params[weight_], .b_O = bias(ctx), .y_RO = y_RO, .transposed = transposed_}, ctx.stream);
  return y_RO;
}

Linear::WithGelu Linear::forward_gelu(const UnitContext& ctx, const ConstTensorRef& x_RI, const char* what) const {
  WithGelu out;
  out.pre_RO = ctx.activation({x_RI.shape[0], out_}, what);
  out.y_RO = ctx.activation({x_RI.shape[0], out_}, "gelu");
  kernels::linear_gelu_forward({.x_RI = x_RI,
                                .w_OI = ctx.params[weight_],
                                .b_O = bias(ctx),
                                .pre_RO = out.pre_RO,
                                .y_RO = out.y_RO,
                                .transposed = transposed_},
                               ctx.stream);
  return out;
}

void Linear::backward_weight(const UnitContext& ctx, const ConstTensorRef& dy_RO, const ConstTensorRef& x_RI) const {
  if (ctx.frozen) return;
  const TensorRef dbias = bias_ ? ctx.grads[weight_ + 1] : TensorRef();
  kernels::linear_backward_weight(
      {.dy_RO = dy_RO, .x_RI = x_RI, .dw_OI = ctx.grads[weight_], .db_O = dbias, .transposed = transposed_}, ctx.stream);
}

void Linear::backward_input(const UnitContext& ctx, const ConstTensorRef& dy_RO, const TensorRef& dx_RI) const {
  kernels::linear_backward_input({.dy_RO = dy_RO, .w_OI = ctx.params[weight_], .dx_RI = dx_RI, .transposed = transposed_},
                                 ctx.stream);
}

void Linear::backward_input_gelu(const UnitContext& ctx, const ConstTensorRef& dy_RO, const ConstTensorRef& pre_RI,
                                 const TensorRef& dpre_RI) const {
  kernels::gelu_linear_backward_input(
      {.dy_RO = dy_RO, .w_OI = ctx.params[weight_], .pre_RI = pre_RI, .dpre_RI = dpre_RI, .transposed = transposed_},
      ctx.stream);
}

Norm::Norm(std::vector<ParamSpec>& params, const std::string& name, Kind kind, std::int64_t C, double eps)
    : kind_(kind), weight_(params.size()), eps_(static_cast<float>(eps)) {
  params.push_back({name + ".weight", Shape{C}, Init::constant(1.0f), false});
  if (kind_ == Kind::layer) params.push_back({name + ".bias", Shape{C}, Init::constant(0.0f), false});
}

Normed Norm::run(const UnitContext& ctx, const ConstTensorRef& x, const ConstTensorRef& residual, const TensorRef& sum) const {
  const std::int64_t R = x.shape[0];
  Normed out;
  out.y_RC = ctx.activation(x.shape, "norm output");
  out.rstd_R = ctx.activation(DType::f32, {R}, "norm rstd");
  kernels::NormForwardArgs args;
  args.x_RC = x;
  args.residual_RC = residual;
  args.sum_RC = sum;
  args.w_C = ctx.params[weight_];
  args.y_RC = out.y_RC;
  args.rstd_R = out.rstd_R;
  args.eps = eps_;
  if (kind_ == Kind::rms) {
    kernels::rmsnorm_forward(args, ctx.stream);
  } else {
    out.mean_R = ctx.activation(DType::f32, {R}, "norm mean");
    args.b_C = ctx.params[weight_ + 1];
    args.mean_R = out.mean_R;
    kernels::layernorm_forward(args, ctx.stream);
  }
  return out;
}

Normed Norm::forward(const UnitContext& ctx, const ConstTensorRef& s_RC) const { return run(ctx, s_RC, {}, {}); }

Normed Norm::forward_residual(const UnitContext& ctx, const ConstTensorRef& x_RC, const ConstTensorRef& residual_RC,
                              const TensorRef& sum_RC) const {
  return run(ctx, x_RC, residual_RC, sum_RC);
}

void Norm::backward(const UnitContext& ctx, const ConstTensorRef& dy_RC, const ConstTensorRef& s_RC, const Normed& normed,
                    const ConstTensorRef& dresidual_RC, const TensorRef& dx_RC) const {
  kernels::NormBackwardArgs args;
  args.dy_RC = dy_RC;
  args.s_RC = s_RC;
  args.w_C = ctx.params[weight_];
  args.rstd_R = normed.rstd_R;
  args.dresidual_RC = dresidual_RC;
  args.dx_RC = dx_RC;
  args.dw_C = ctx.grads[weight_];
  if (kind_ == Kind::rms) {
    kernels::rmsnorm_backward(args, ctx.stream);
  } else {
    args.mean_R = normed.mean_R;
    args.db_C = ctx.grads[weight_ + 1];
    kernels::layernorm_backward(args, ctx.stream);
  }
}

}  // namespace strata
