// What becomes of one projected value (low_rank.h), written once over the operations of a processor or a GPU: as
// update_rules.h. Ops has also add.
#pragma once

#include "optim/frugal_subspace.h"
#include "optim/low_rank.h"
#include "runtime/host_device.h"

namespace strata {

// Lanes of a row's sum of squares.
inline constexpr int kSquareLanes = 16;

// Beside a norm that divides.
inline constexpr double kNormEps = 1e-8;

template <class Ops>
struct MomentsRule {
  using V = typename Ops::V;
  static constexpr int kStates = 2;
  V one_minus_beta1, beta2, one_minus_beta2, eps;

  explicit MomentsRule(const LowRankScalars& s)
      : one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        eps(Ops::set1(s.eps)) {}

  // Replaces m and v; gives m / (sqrt(v) + eps).
  STRATA_HOST_DEVICE V update(V r, V& m, V& v) const {
    m = Ops::canonical(Ops::fma(one_minus_beta1, Ops::sub(r, m), m));
    v = Ops::canonical(Ops::fma(Ops::mul(one_minus_beta2, r), r, Ops::mul(beta2, v)));
    return Ops::canonical(Ops::div(m, Ops::add(Ops::sqrt(v), eps)));
  }
};

// What FRUGAL's optimizers with states make of a projected value: a direction, of which the step takes a multiple. Of
// AdamW that without the bias correction of m, which is in the multiple.
template <class Ops>
struct AdamWDirection {
  using V = typename Ops::V;
  static constexpr int kStates = 2;
  V one_minus_beta1, beta2, one_minus_beta2, inv_sqrt_bias2, eps;

  explicit AdamWDirection(const DirectionScalars& s)
      : one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        inv_sqrt_bias2(Ops::set1(s.inv_sqrt_bias2)),
        eps(Ops::set1(s.eps)) {}

  STRATA_HOST_DEVICE V update(V r, V& m, V& v) const {
    m = Ops::canonical(Ops::fma(one_minus_beta1, Ops::sub(r, m), m));
    v = Ops::canonical(Ops::fma(Ops::mul(one_minus_beta2, r), r, Ops::mul(beta2, v)));
    return Ops::canonical(Ops::div(m, Ops::fma(Ops::sqrt(v), inv_sqrt_bias2, eps)));
  }
};

template <class Ops>
struct LionDirection {
  using V = typename Ops::V;
  static constexpr int kStates = 1;
  V beta1, one_minus_beta1, beta2, one_minus_beta2;

  explicit LionDirection(const DirectionScalars& s)
      : beta1(Ops::set1(s.beta1)),
        one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)) {}

  STRATA_HOST_DEVICE V update(V r, V& m, V& /*v*/) const {
    const auto direction = Ops::sign(Ops::fma(one_minus_beta1, r, Ops::mul(beta1, m)));
    m = Ops::canonical(Ops::fma(one_minus_beta2, r, Ops::mul(beta2, m)));
    return Ops::canonical(direction);
  }
};

template <class Ops>
struct MomentumDirection {
  using V = typename Ops::V;
  static constexpr int kStates = 1;
  V momentum;

  explicit MomentumDirection(const DirectionScalars& s) : momentum(Ops::set1(s.beta1)) {}

  STRATA_HOST_DEVICE V update(V r, V& m, V& /*v*/) const {
    m = Ops::canonical(Ops::fma(momentum, m, r));
    return m;
  }
};

// The weight, given what has come back of the directions and of the projected gradient.
template <class Ops>
struct SplitStep {
  using V = typename Ops::V;
  V minus_step, minus_rest, decay_factor;
  StateFreeRule rule;

  explicit SplitStep(const SubspaceScalars& s)
      : minus_step(Ops::set1(-s.step_size)),
        minus_rest(Ops::set1(s.rest.rule == StateFreeRule::none ? -0.0f : -s.rest.lr)),
        decay_factor(Ops::set1(s.rest.decay_factor)),
        rule(s.rest.rule) {}

  STRATA_HOST_DEVICE V update(V p, V g, V step, V seen) const {
    const auto residual = Ops::sub(g, seen);
    const auto rest = rule == StateFreeRule::none  ? Ops::set1(0.0f)
                      : rule == StateFreeRule::sgd ? residual
                                                   : Ops::sign(residual);
    return Ops::canonical(Ops::fma(minus_rest, rest, Ops::fma(minus_step, step, Ops::mul(p, decay_factor))));
  }
};

}  // namespace strata
