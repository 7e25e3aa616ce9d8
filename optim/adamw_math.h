// The arithmetic of AdamW for one element, written once over the operations of a processor or a GPU. Each operation of `Ops` is
// one correctly rounded IEEE f32 operation; nothing here may be contracted, reassociated or reordered.
// tests/structure/ptx_test.py reads what nvcc makes of it.
#pragma once

#include "optim/adamw.h"
#include "runtime/host_device.h"

namespace strata {

// Ops: V (one or more elements), set1, mul, sub, fma(a, b, c) = a * b + c, div, sqrt, and canonical: every NaN becomes
// 0x7fc00000. Processors disagree on the payload and sign of a NaN they produce, so results are canonicalised before they are
// stored.
template <class Ops>
struct AdamWCoefficients {
  using V = typename Ops::V;
  V one_minus_beta1, beta2, one_minus_beta2, minus_step_size, inv_sqrt_bias2, eps, decay_factor, grad_scale;

  // Multiplying by 1 changes no bit, so a slice without decay takes the same path.
  AdamWCoefficients(const AdamWScalars& s, bool decay)
      : one_minus_beta1(Ops::set1(s.one_minus_beta1)),
        beta2(Ops::set1(s.beta2)),
        one_minus_beta2(Ops::set1(s.one_minus_beta2)),
        minus_step_size(Ops::set1(-s.step_size)),
        inv_sqrt_bias2(Ops::set1(s.inv_sqrt_bias2)),
        eps(Ops::set1(s.eps)),
        decay_factor(Ops::set1(decay ? s.decay_factor : 1.0f)),
        grad_scale(Ops::set1(s.grad_scale)) {}
};

// p, m, v are replaced; see AdamWSlice for the sequence.
template <class Ops>
STRATA_HOST_DEVICE inline void adamw_element(typename Ops::V& p, typename Ops::V& m, typename Ops::V& v, typename Ops::V g,
                                             const AdamWCoefficients<Ops>& c) {
  const auto scaled = Ops::mul(g, c.grad_scale);
  const auto decayed = Ops::mul(p, c.decay_factor);
  const auto first = Ops::fma(c.one_minus_beta1, Ops::sub(scaled, m), m);
  const auto second = Ops::fma(Ops::mul(c.one_minus_beta2, scaled), scaled, Ops::mul(c.beta2, v));
  const auto denominator = Ops::fma(Ops::sqrt(second), c.inv_sqrt_bias2, c.eps);
  p = Ops::canonical(Ops::fma(c.minus_step_size, Ops::div(first, denominator), decayed));
  m = Ops::canonical(first);
  v = Ops::canonical(second);
}

}  // namespace strata
