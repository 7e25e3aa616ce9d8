// FRUGAL's updates on a GPU: the formulas of frugal_rules.h. A thread has 8 elements, whose states, up to 8 in a row, it finds
// by counting bits. It computes both steps of each: in nearly every warp some element needs either, and memory is what takes
// the time.
#include "optim/frugal_rules.h"
#include "optim/gpu/frugal.h"
#include "optim/gpu/update_ops.h"
#include "optim/stateful_walk.h"
#include "optim/update_rules.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

constexpr std::uint32_t kWholeUnit = (1u << kUnit) - 1u;

// The states of the elements whose bits are set, and where all are, by 16 bytes if they lie so. The others stay.
STRATA_DEVICE void load_states(const float* from, std::uint32_t bits, float (&values)[kUnit]) {
  const bool packed = bits == kWholeUnit && reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
  if (packed) return load_unit(from, {0, kUnit, true}, 0.0f, values);
  for (int k = 0; k < kUnit; ++k)
    if ((bits >> k & 1u) != 0u) values[k] = *from++;
}

STRATA_DEVICE void store_states(const float (&values)[kUnit], std::uint32_t bits, float* to) {
  const bool packed = bits == kWholeUnit && reinterpret_cast<std::uintptr_t>(to) % 16 == 0;
  if (packed) return store_unit(values, to, {0, kUnit, true});
  for (int k = 0; k < kUnit; ++k)
    if ((bits >> k & 1u) != 0u) *to++ = values[k];
}

template <class Rule, class G>
STRATA_KERNEL frugal_kernel(UpdateSlice s, const G* gradient, Units units, Rule rule, StateFree<Ops> rest) {
  const Unit unit = unit_of_thread(units);
  if (unit.first >= s.n) return;
  const int skipped = unit.first < 0 ? static_cast<int>(-unit.first) : 0;
  const std::int64_t left = s.n - unit.first;
  StatefulWalk<Ops> walk(s.map, s.first + unit.first + skipped);
  const std::int64_t at = walk.before() - s.states_before_first;
  const std::uint32_t bits = walk.next((left < kUnit ? static_cast<int>(left) : kUnit) - skipped) << skipped;

  float p[kUnit], g[kUnit], states[kMaxStates][kUnit] = {};
  load_unit(s.p, unit, 0.0f, p);
  load_unit(gradient, unit, 0.0f, g);
  if (bits != 0u && !s.states_are_zero)
    for (int k = 0; k < Rule::kStates; ++k) load_states(s.states[k] + at, bits, states[k]);
  STRATA_UNROLL
  for (int i = 0; i < kUnit; ++i) {
    float values[kMaxStates], stateful = p[i];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states[k][i];
    rule.update(stateful, values, g[i]);
    for (int k = 0; k < Rule::kStates; ++k) states[k][i] = values[k];
    rest.update(p[i], g[i]);
    if ((bits >> i & 1u) != 0u) p[i] = stateful;
  }
  store_unit(p, s.new_p, unit);
  if (bits != 0u)
    for (int k = 0; k < Rule::kStates; ++k) store_states(states[k], bits, s.new_states[k] + at);
  if (s.p16 != nullptr) store_unit(p, s.p16, unit);
}

template <class Rule, class G>
void update_from(UpdateSlice s, const G* g, const Rule& rule, const StateFree<Ops>& rest, GpuQueue& queue) {
  if (s.n == 0) return;  // whose first unit would begin behind the slice's end
  if (s.new_p == nullptr) s.new_p = s.p, s.new_states = s.states;
  const int phase = s.p16 == nullptr ? common_phase(s.p, s.new_p, g) : common_phase(s.p, s.new_p, g, s.p16);
  const Units units = {s.n, phase};
  launch(queue, frugal_kernel<Rule, G>, grid_of(units), kThreads, 0, s, g, units, rule, rest);
}

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars, const StateFreeScalars& rest, GpuQueue& queue) {
  const Rule rule(scalars);
  const StateFree<Ops> without(rest);
  if (s.g16 != nullptr) return update_from(s, s.g16, rule, without, queue);
  update_from(s, s.g, rule, without, queue);
}

}  // namespace

void frugal_adamw(const UpdateSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue) {
  update<AdamWRule<Ops>>(slice, scalars, rest, queue);
}
void frugal_lion(const UpdateSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest, GpuQueue& queue) {
  update<LionRule<Ops>>(slice, scalars, rest, queue);
}
void frugal_momentum(const UpdateSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest,
                     GpuQueue& queue) {
  update<FrugalMomentumRule<Ops>>(slice, scalars, rest, queue);
}

}  // namespace strata::STRATA_GPU
