// FRUGAL's rules beside those of AdamW and Lion (update_rules.h says what a rule and its Ops are).
#pragma once

#include "optim/frugal.h"
#include "runtime/host_device.h"

namespace strata {

// Of elements that have no states.
template <class Ops>
struct StateFree {
  using V = typename Ops::V;
  V minus_lr, decay_factor, grad_scale;
  StateFreeRule rule;

  explicit StateFree(const StateFreeScalars& s)
      : minus_lr(Ops::set1(s.rule == StateFreeRule::none ? -0.0f : -s.lr)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)),
        rule(s.rule) {}

  STRATA_HOST_DEVICE void update(V& p, V g) const {
    const auto scaled = Ops::mul(g, grad_scale);
    const auto decayed = Ops::mul(p, decay_factor);
    // Of rule none: decayed - 0 * 0, which is decayed to the bit.
    const auto direction = rule == StateFreeRule::none  ? Ops::set1(0.0f)
                           : rule == StateFreeRule::sgd ? scaled
                                                        : Ops::sign(scaled);
    p = Ops::canonical(Ops::fma(minus_lr, direction, decayed));
  }
};

template <class Ops>
struct FrugalMomentumRule {
  using V = typename Ops::V;
  using Scalars = FrugalMomentumScalars;
  static constexpr int kStates = 1;
  V minus_lr, momentum, decay_factor, grad_scale;

  explicit FrugalMomentumRule(const FrugalMomentumScalars& s)
      : minus_lr(Ops::set1(-s.lr)),
        momentum(Ops::set1(s.momentum)),
        decay_factor(Ops::set1(s.decay_factor)),
        grad_scale(Ops::set1(s.grad_scale)) {}

  STRATA_HOST_DEVICE void update(V& p, V* states, V g) const {
    const auto scaled = Ops::mul(g, grad_scale);
    const auto decayed = Ops::mul(p, decay_factor);
    const auto buffer = Ops::fma(momentum, states[0], scaled);
    p = Ops::canonical(Ops::fma(minus_lr, buffer, decayed));
    states[0] = Ops::canonical(buffer);
  }
};

}  // namespace strata
