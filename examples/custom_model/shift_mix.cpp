#include "shift_mix.h"

#include <utility>

#include "runtime/kernels/elementwise.h"

using strata::ConstTensorRef;
using strata::Status;
using strata::Tensor;
using strata::TensorRef;
using strata::UnitContext;

namespace {

// This example computes in f32; a layer for bf16 would convert as runtime/dtype.h shows.
std::vector<strata::ParamSpec> with_mix(const std::string& name, std::int64_t C) {
  return {{name + ".mix", {C}, strata::Init::constant(0.5f), false}};
}

}  // namespace

ShiftMixUnit::ShiftMixUnit(std::string name, std::int64_t C, std::int64_t F)
    : name_(std::move(name)), params_(with_mix(name_, C)), mlp_(params_, name_ + ".mlp", {.C = C, .F = F}) {}

Tensor ShiftMixUnit::mix(const UnitContext& ctx, const Tensor& x) const {
  Tensor s = ctx.activation(x.shape(), "mixed tokens");
  // What an operation uses is captured as views: the tensors stay alive until the stream has passed it.
  ctx.stream.enqueue("shift mix", [x = ConstTensorRef(x), a = ctx.params[0], s = s.ref(), T = ctx.batch.T] {
    const std::int64_t C = x.shape[1];
    for (std::int64_t r = 0; r < x.shape[0]; ++r)
      for (std::int64_t c = 0; c < C; ++c) {
        const float mixed = a.as<float>()[c];
        const float before = r % T == 0 ? 0.0f : x.as<float>()[(r - 1) * C + c];
        s.as<float>()[r * C + c] = mixed * x.as<float>()[r * C + c] + (1.0f - mixed) * before;
      }
    return Status();
  });
  return s;
}

Tensor ShiftMixUnit::forward(const UnitContext& ctx, const Tensor& x, strata::Saved* saved) {
  const Tensor s = mix(ctx, x);
  Tensor y = mlp_.forward(ctx, s, saved);
  strata::kernels::add({.a = x, .b = y, .y = y}, ctx.stream);
  return y;
}

Tensor ShiftMixUnit::backward(const UnitContext& ctx, const Tensor& x, Tensor dy, strata::Saved saved) {
  const Tensor dpre = mlp_.backward_core(ctx, dy, saved);
  const Tensor s = mix(ctx, x);  // cheaper to make again than to keep
  const Tensor ds = ctx.activation(x.shape(), "gradient of mixed tokens");
  mlp_.backward_projection(ctx, dpre, s, ds);
  // dx_t = dy_t + a * ds_t + (1 - a) * ds_{t+1};  da = sum over rows of ds_t * (x_t - x_{t-1}), rows in order.
  ctx.stream.enqueue("shift mix backward", [x = ConstTensorRef(x), a = ctx.params[0], ds = ConstTensorRef(ds), dy = dy.ref(),
                                            da = ctx.grads[0], T = ctx.batch.T] {
    const std::int64_t C = x.shape[1];
    for (std::int64_t r = 0; r < x.shape[0]; ++r)
      for (std::int64_t c = 0; c < C; ++c) {
        const std::int64_t i = r * C + c;
        const float mixed = a.as<float>()[c];
        const float before = r % T == 0 ? 0.0f : x.as<float>()[i - C];
        const float after = r % T == T - 1 ? 0.0f : ds.as<float>()[i + C];
        da.as<float>()[c] += ds.as<float>()[i] * (x.as<float>()[i] - before);
        dy.as<float>()[i] += mixed * ds.as<float>()[i] + (1.0f - mixed) * after;
      }
    return Status();
  });
  return dy;
}
