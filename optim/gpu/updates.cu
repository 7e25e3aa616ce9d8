// The element-wise updates on a GPU: the formulas of update_rules.h over operations that are rounded once and never contracted.
#include "optim/gpu/frugal.h"
#include "optim/gpu/low_rank.h"
#include "optim/gpu/projection.h"
#include "optim/gpu/update_ops.h"
#include "optim/gpu_kernels.h"
#include "optim/late_decay_rules.h"
#include "optim/update_rules.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

template <class Rule, class G>
STRATA_KERNEL update_kernel(UpdateSlice s, const G* gradient, Units units, Rule rule) {
  const Unit unit = unit_of_thread(units);
  float p[kUnit], states[kMaxStates][kUnit], g[kUnit];
  load_unit(s.p, unit, 0.0f, p);
  for (int k = 0; k < Rule::kStates; ++k) load_unit(s.states[k], unit, 0.0f, states[k]);
  load_unit(gradient, unit, 0.0f, g);
  for (int i = 0; i < kUnit; ++i) {
    float values[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states[k][i];
    rule.update(p[i], values, g[i]);
    for (int k = 0; k < Rule::kStates; ++k) states[k][i] = values[k];
  }
  store_unit(p, s.new_p, unit);
  for (int k = 0; k < Rule::kStates; ++k) store_unit(states[k], s.new_states[k], unit);
  if (s.p16 != nullptr) store_unit(p, s.p16, unit);
}

template <class Rule, class G>
void update_from(UpdateSlice s, const G* g, const Rule& rule, GpuQueue& queue) {
  if (s.new_p == nullptr) s.new_p = s.p, s.new_states = s.states;
  // What the rule does not have is as aligned as p.
  for (int k = Rule::kStates; k < kMaxStates; ++k) s.states[k] = s.new_states[k] = s.p;
  static_assert(kMaxStates == 2, "common_phase() below looks at every state");
  const int phase = s.p16 == nullptr
                        ? common_phase(s.p, s.states[0], s.states[1], s.new_p, s.new_states[0], s.new_states[1], g)
                        : common_phase(s.p, s.states[0], s.states[1], s.new_p, s.new_states[0], s.new_states[1], g, s.p16);
  const Units units = {s.n, phase};
  launch(queue, update_kernel<Rule, G>, grid_of(units), kThreads, 0, s, g, units, rule);
}

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars, GpuQueue& queue) {
  const Rule rule(scalars);
  if (s.g16 != nullptr) return update_from(s, s.g16, rule, queue);
  update_from(s, s.g, rule, queue);
}

}  // namespace

const OptimGpuKernels& optim_kernel_table() {
  static constexpr OptimGpuKernels kTable = {.adamw = update<AdamWRule<Ops>>,
                                             .adamw_transformers = update<TransformersAdamWRule<Ops>>,
                                             .lion = update<LionRule<Ops>>,
                                             .sgd = update<SgdRule<Ops>>,
                                             .momentum = update<MomentumRule<Ops>>,
                                             .nesterov = update<NesterovRule<Ops>>,
                                             .apollo_project = apollo_project,
                                             .apollo_apply = apollo_apply,
                                             .galore = galore,
                                             .subspace = subspace,
                                             .normal = normal,
                                             .frugal = kFrugalKernels};
  return kTable;
}

}  // namespace strata::STRATA_GPU
