// The arithmetic of the element-wise optimizers for one element, each written once over the operations of a processor or a GPU.
// Each operation of `Ops` is one correctly rounded IEEE f32 operation; nothing here may be contracted, reassociated or
// reordered. tests/structure/ptx_test.py reads what nvcc makes of it.
//
// Ops: V (one or more elements), set1, mul, sub, fma(a, b, c) = a * b + c, div, sqrt; sign: 1 or -1, zeros and NaN as they are;
// canonical: every NaN becomes 0x7fc00000. Processors disagree on the payload and sign of a NaN they produce, so results are
// canonicalised before they are stored.
// A rule: Scalars, kStates, and update(p, states, g), which replaces p and the states.
#pragma once

#include <cstddef>

#include "optim/adamw.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "runtime/host_device.h"

namespace strata {

template <class Ops>
struct AdamWRule {
  using V = typename Ops::V;
  using Scalars = AdamWScalars;
  static constexpr int kStates = 2;
  V one_minus_beta1, beta2, one_minus_beta2, minus_step_size, inv_sqrt_bias2, eps, decay_factor, grad_scale;

  explicit AdamWRule(const AdamWScalars& s)
      : one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        minus_step_size(Ops::set1(-s.step_size)),
        inv_sqrt_bias2(Ops::set1(s.inv_sqrt_bias2)),
        eps(Ops::set1(s.eps)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto scaled = Ops::mul(g, grad_scale);
    const auto decayed = Ops::mul(p, decay_factor);
    const auto m = Ops::fma(one_minus_beta1, Ops::sub(scaled, states[0]), states[0]);
    const auto v = Ops::fma(Ops::mul(one_minus_beta2, scaled), scaled, Ops::mul(beta2, states[1]));
    const auto denominator = Ops::fma(Ops::sqrt(v), inv_sqrt_bias2, eps);
    p = Ops::canonical(Ops::fma(minus_step_size, Ops::div(m, denominator), decayed));
    states[0] = Ops::canonical(m);
    states[1] = Ops::canonical(v);
  }
};

template <class Ops>
struct LionRule {
  using V = typename Ops::V;
  using Scalars = LionScalars;
  static constexpr int kStates = 1;
  V beta1, one_minus_beta1, beta2, one_minus_beta2, minus_lr, decay_factor, grad_scale;

  explicit LionRule(const LionScalars& s)
      : beta1(Ops::set1(s.beta1)),
        one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        minus_lr(Ops::set1(-s.lr)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto scaled = Ops::mul(g, grad_scale);
    const auto decayed = Ops::mul(p, decay_factor);
    const auto direction = Ops::sign(Ops::fma(one_minus_beta1, scaled, Ops::mul(beta1, states[0])));
    p = Ops::canonical(Ops::fma(minus_lr, direction, decayed));
    states[0] = Ops::canonical(Ops::fma(one_minus_beta2, scaled, Ops::mul(beta2, states[0])));
  }
};

// Without momentum.
template <class Ops>
struct SgdRule {
  using V = typename Ops::V;
  using Scalars = SgdScalars;
  static constexpr int kStates = 0;
  V minus_lr, weight_decay, grad_scale;

  explicit SgdRule(const SgdScalars& s)
      : minus_lr(Ops::set1(-s.lr)), weight_decay(Ops::set1(s.weight_decay)), grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* /*states*/, V g) const {
    const auto direction = Ops::fma(weight_decay, p, Ops::mul(g, grad_scale));
    p = Ops::canonical(Ops::fma(minus_lr, direction, p));
  }
};

template <class Ops>
struct MomentumRule {
  using V = typename Ops::V;
  using Scalars = SgdScalars;
  static constexpr int kStates = 1;
  V minus_lr, weight_decay, grad_scale, momentum;

  explicit MomentumRule(const SgdScalars& s)
      : minus_lr(Ops::set1(-s.lr)),
        weight_decay(Ops::set1(s.weight_decay)),
        grad_scale(Ops::set1(s.grad_scale)),
        momentum(Ops::set1(s.momentum)) {}

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto gradient = Ops::fma(weight_decay, p, Ops::mul(g, grad_scale));
    const auto buffer = Ops::fma(momentum, states[0], gradient);
    p = Ops::canonical(Ops::fma(minus_lr, buffer, p));
    states[0] = Ops::canonical(buffer);
  }
};

// Nesterov's: the step looks one momentum ahead.
template <class Ops>
struct NesterovRule : MomentumRule<Ops> {
  using V = typename Ops::V;
  using MomentumRule<Ops>::MomentumRule;

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto gradient = Ops::fma(this->weight_decay, p, Ops::mul(g, this->grad_scale));
    const auto buffer = Ops::fma(this->momentum, states[0], gradient);
    p = Ops::canonical(Ops::fma(this->minus_lr, Ops::fma(this->momentum, buffer, gradient), p));
    states[0] = Ops::canonical(buffer);
  }
};

}  // namespace strata
