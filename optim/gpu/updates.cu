// The element-wise updates on a GPU: the formulas of update_rules.h over operations that are rounded once and never contracted.
#include <type_traits>

#include "optim/gpu/frugal.h"
#include "optim/gpu/low_rank.h"
#include "optim/gpu/projection.h"
#include "optim/gpu/state_noise.h"
#include "optim/gpu/update_ops.h"
#include "optim/gpu/updates_8bit.h"
#include "optim/gpu_kernels.h"
#include "optim/late_decay_rules.h"
#include "optim/update_rules.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

struct NoNoise {};

// The states' arrays; Noise: NoNoise, or what rounds them.
template <class State>
struct StateArrays {
  std::array<State*, kMaxStates> from, to;
};

template <class Rule, class State, class Noise, class G>
STRATA_KERNEL update_kernel(UpdateSlice s, StateArrays<State> arrays, Noise noise, const G* gradient, Units units, Rule rule) {
  const Unit unit = unit_of_thread(units);
  float p[kUnit], states[kMaxStates][kUnit], g[kUnit];
  load_unit(s.p, unit, 0.0f, p);
  for (int k = 0; k < Rule::kStates; ++k) load_unit(arrays.from[k], unit, 0.0f, states[k]);
  load_unit(gradient, unit, 0.0f, g);
  for (int i = 0; i < kUnit; ++i) {
    float values[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states[k][i];
    rule.update(p[i], values, g[i]);
    for (int k = 0; k < Rule::kStates; ++k) states[k][i] = values[k];
  }
  if constexpr (std::is_same_v<Noise, StateNoise>) {
    std::uint32_t words[kUnit];
    noise_of_unit(noise, unit.first, words);
    for (int k = 0; k < Rule::kStates; ++k)
      for (int i = 0; i < kUnit; ++i) states[k][i] = rounded_by(words[i], k, states[k][i]);
  }
  store_unit(p, s.new_p, unit);
  for (int k = 0; k < Rule::kStates; ++k) store_unit(states[k], arrays.to[k], unit);
  if (s.p16 != nullptr) store_unit(p, s.p16, unit);
}

template <class Rule, class State, class Noise, class G>
void update_from(UpdateSlice s, StateArrays<State> arrays, const Noise& noise, const G* g, const Rule& rule, GpuQueue& queue) {
  if (s.new_p == nullptr) s.new_p = s.p, arrays.to = arrays.from;
  // What the rule does not have is as aligned as what it has.
  for (int k = Rule::kStates; k < kMaxStates; ++k)
    arrays.from[k] = arrays.to[k] = Rule::kStates > 0 ? arrays.from[0] : reinterpret_cast<State*>(s.p);
  static_assert(kMaxStates == 2, "common_phase() below looks at every state");
  const auto& [from, to] = arrays;
  const int phase = s.p16 == nullptr ? common_phase(s.p, from[0], from[1], s.new_p, to[0], to[1], g)
                                     : common_phase(s.p, from[0], from[1], s.new_p, to[0], to[1], g, s.p16);
  const Units units = {s.n, phase};
  launch(queue, update_kernel<Rule, State, Noise, G>, grid_of(units), kThreads, 0, s, arrays, noise, g, units, rule);
}

template <class Rule, class State, class Noise>
void update_states(const UpdateSlice& s, const StateArrays<State>& arrays, const Noise& noise,
                   const typename Rule::Scalars& scalars, GpuQueue& queue) {
  const Rule rule(scalars);
  if (s.g16 != nullptr) return update_from(s, arrays, noise, s.g16, rule, queue);
  update_from(s, arrays, noise, s.g, rule, queue);
}

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars, GpuQueue& queue) {
  update_states<Rule>(s, StateArrays<float>{s.states, s.new_states}, NoNoise(), scalars, queue);
}

template <class Rule>
void update_bf16(const UpdateSlice& s, const typename Rule::Scalars& scalars, const StateNoise& noise, GpuQueue& queue) {
  StateArrays<bf16> arrays;
  for (std::size_t k = 0; k < kMaxStates; ++k) {
    arrays.from[k] = reinterpret_cast<bf16*>(s.packed[k]);
    arrays.to[k] = reinterpret_cast<bf16*>(s.new_packed[k]);
  }
  update_states<Rule>(s, arrays, noise, scalars, queue);
}

}  // namespace

const OptimGpuKernels& optim_kernel_table() {
  static constexpr OptimGpuKernels kTable = {.adamw = update<AdamWRule<Ops>>,
                                             .adamw_transformers = update<TransformersAdamWRule<Ops>>,
                                             .lion = update<LionRule<Ops>>,
                                             .sgd = update<SgdRule<Ops>>,
                                             .momentum = update<MomentumRule<Ops>>,
                                             .nesterov = update<NesterovRule<Ops>>,
                                             .bf16_states = {.adamw = update_bf16<AdamWRule<Ops>>,
                                                             .lion = update_bf16<LionRule<Ops>>,
                                                             .momentum = update_bf16<MomentumRule<Ops>>,
                                                             .nesterov = update_bf16<NesterovRule<Ops>>},
                                             .adamw_8bit = adamw_8bit,
                                             .apollo_project = apollo_project,
                                             .apollo_apply = apollo_apply,
                                             .galore = galore,
                                             .subspace = subspace,
                                             .normal = normal,
                                             .frugal = kFrugalKernels};
  return kTable;
}

}  // namespace strata::STRATA_GPU
