// What becomes of one projected value (low_rank.h), written once over the operations of a processor or a GPU: as
// update_rules.h. Ops has also add.
#pragma once

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

}  // namespace strata
