// Rules of the methods that decay the new weights (update_rules.h says what a rule is). Ops has also add.
#pragma once

#include "optim/adamw_transformers.h"
#include "runtime/host_device.h"

namespace strata {

template <class Ops>
struct TransformersAdamWRule {
  using V = typename Ops::V;
  using Scalars = TransformersAdamWScalars;
  static constexpr int kStates = 2;
  V one_minus_beta1, beta2, one_minus_beta2, minus_step_size, eps, decay_factor, grad_scale;

  explicit TransformersAdamWRule(const TransformersAdamWScalars& s)
      : one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        minus_step_size(Ops::set1(-s.step_size)),
        eps(Ops::set1(s.eps)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto scaled = Ops::mul(g, grad_scale);
    const auto m = Ops::fma(one_minus_beta1, Ops::sub(scaled, states[0]), states[0]);
    const auto v = Ops::fma(Ops::mul(one_minus_beta2, scaled), scaled, Ops::mul(beta2, states[1]));
    const auto direction = Ops::div(m, Ops::add(Ops::sqrt(v), eps));
    p = Ops::canonical(Ops::mul(Ops::fma(minus_step_size, direction, p), decay_factor));
    states[0] = Ops::canonical(m);
    states[1] = Ops::canonical(v);
  }
};

// A row of apollo.h's last pass.
struct ScaledGradientScalars {
  float step_size = 0.0f, decay_factor = 1.0f, grad_scale = 1.0f;
};
template <class Ops>
struct ScaledGradientRule {
  using V = typename Ops::V;
  using Scalars = ScaledGradientScalars;
  static constexpr int kStates = 0;
  V minus_step_size, decay_factor, grad_scale;

  explicit ScaledGradientRule(const ScaledGradientScalars& s)
      : minus_step_size(Ops::set1(-s.step_size)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* /*states*/, V g) const {
    p = Ops::canonical(Ops::mul(Ops::fma(minus_step_size, Ops::mul(g, grad_scale), p), decay_factor));
  }
};

}  // namespace strata
