// The bodies of the element-wise updates, one per instruction set. Everything used here is local to the translation unit or a
// template over its Ops, so that no function compiled for AVX-512 can be linked into code for an older processor.
#include <array>
#include <cstddef>
#include <cstdint>

#include "optim/late_decay_rules.h"
#include "optim/update_kernels.h"
#include "optim/update_ops_simd.h"
#include "optim/update_rules.h"

namespace strata::STRATA_ISA {
namespace {

// May ask for lines past the end of the arrays, which does no harm.
template <class Rule, class G>
void chunk(const UpdateSlice& s, const Results<Rule::kStates>& to, const G* g, std::int64_t at, const Rule& rule) {
  constexpr std::int64_t kVectors = kChunk / Ops::kWidth;
  prefetch_chunk(s.p + at + kAhead);
  for (int k = 0; k < Rule::kStates; ++k) prefetch_chunk(s.states[k] + at + kAhead);
  prefetch_chunk(g + at + kAhead);
  Ops::V p[kVectors];
  for (std::int64_t j = 0; j < kVectors; ++j) {
    const std::int64_t i = at + j * Ops::kWidth;
    p[j] = Ops::load(s.p + i);
    Ops::V states[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) states[k] = Ops::load(s.states[k] + i);
    rule.update(p[j], states, Ops::load(g + i));
    Ops::store(to.p + i, p[j]);
    for (int k = 0; k < Rule::kStates; ++k) Ops::store(to.states[k] + i, states[k]);
  }
  if (s.p16 != nullptr) Ops::stream16(s.p16 + at, p);
}

template <class Rule, class G>
void elements(const UpdateSlice& s, const Results<Rule::kStates>& to, const G* g, std::int64_t begin, std::int64_t end,
              const Rule& rule) {
  for (std::int64_t i = begin; i < end; i += Ops::kWidth) {
    const std::int64_t n = end - i < Ops::kWidth ? end - i : Ops::kWidth;
    Ops::V p = Ops::load_first(s.p + i, n);
    Ops::V states[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) states[k] = Ops::load_first(s.states[k] + i, n);
    rule.update(p, states, Ops::load_first(g + i, n));
    Ops::store_first(to.p + i, p, n);
    for (int k = 0; k < Rule::kStates; ++k) Ops::store_first(to.states[k] + i, states[k], n);
    if (s.p16 != nullptr) Ops::store16_first(s.p16 + i, p, n);
  }
}

template <class Rule, class G>
void update_from(const UpdateSlice& s, const G* g, const Rule& rule) {
  const Results<Rule::kStates> to(s);
  std::int64_t i = elements_to_line(s.p16, s.n);
  elements(s, to, g, 0, i, rule);
  for (; i + kChunk <= s.n; i += kChunk) chunk(s, to, g, i, rule);
  elements(s, to, g, i, s.n, rule);
  if (s.p16 != nullptr) Ops::fence();
}

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars) {
  const Rule rule(scalars);
  if (s.g16 != nullptr) return update_from(s, s.g16, rule);
  update_from(s, s.g, rule);
}

}  // namespace

const UpdateKernels& update_kernels() {
  static constexpr UpdateKernels kKernels = {.adamw = update<AdamWRule<Ops>>,
                                             .adamw_transformers = update<TransformersAdamWRule<Ops>>,
                                             .lion = update<LionRule<Ops>>,
                                             .sgd = update<SgdRule<Ops>>,
                                             .momentum = update<MomentumRule<Ops>>,
                                             .nesterov = update<NesterovRule<Ops>>,
                                             .scaled_gradient = update<ScaledGradientRule<Ops>>};
  return kKernels;
}

}  // namespace strata::STRATA_ISA
