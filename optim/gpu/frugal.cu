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
STRATA_KERNEL frugal_kernel(FrugalSlice s, const G* gradient, Units units, Rule rule, StateFree<Ops> rest,
                            bool states_are_zero) {
  const Unit unit = unit_of_thread(units);
  if (unit.first >= s.range.n) return;
  const int skipped = unit.first < 0 ? static_cast<int>(-unit.first) : 0;
  const std::int64_t left = s.range.n - unit.first;
  StatefulWalk<Ops> walk(s.map, s.first + unit.first + skipped);
  const std::int64_t at = walk.before() - s.states_before_first;
  const std::uint32_t bits = walk.next((left < kUnit ? static_cast<int>(left) : kUnit) - skipped) << skipped;

  float p[kUnit], g[kUnit], states[kMaxStates][kUnit] = {};
  load_unit(s.range.p, unit, 0.0f, p);
  load_unit(gradient, unit, 0.0f, g);
  if (bits != 0u && !states_are_zero)
    for (int k = 0; k < Rule::kStates; ++k) load_states(s.range.states[k] + at, bits, states[k]);
  STRATA_UNROLL
  for (int i = 0; i < kUnit; ++i) {
    float values[kMaxStates], stateful = p[i];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states[k][i];
    rule.update(stateful, values, g[i]);
    for (int k = 0; k < Rule::kStates; ++k) states[k][i] = values[k];
    rest.update(p[i], g[i]);
    if ((bits >> i & 1u) != 0u) p[i] = stateful;
  }
  store_unit(p, s.range.new_p, unit);
  if (bits != 0u)
    for (int k = 0; k < Rule::kStates; ++k) store_states(states[k], bits, s.range.new_states[k] + at);
  if (s.range.p16 != nullptr) store_unit(p, s.range.p16, unit);
}

template <class Rule, class G>
void update_from(FrugalSlice s, const G* g, const Rule& rule, const StateFree<Ops>& rest, bool states_are_zero,
                 GpuQueue& queue) {
  UpdateSlice& range = s.range;
  if (range.n == 0) return;  // whose first unit would begin behind the range's end
  if (range.new_p == nullptr) range.new_p = range.p, range.new_states = range.states;
  const int phase =
      range.p16 == nullptr ? common_phase(range.p, range.new_p, g) : common_phase(range.p, range.new_p, g, range.p16);
  const Units units = {range.n, phase};
  launch(queue, frugal_kernel<Rule, G>, grid_of(units), kThreads, 0, s, g, units, rule, rest, states_are_zero);
}

template <class Rule>
void update(const FrugalSlice& s, const typename Rule::Scalars& scalars, const StateFreeScalars& rest, bool states_are_zero,
            GpuQueue& queue) {
  const Rule rule(scalars);
  const StateFree<Ops> without(rest);
  if (s.range.g16 != nullptr) return update_from(s, s.range.g16, rule, without, states_are_zero, queue);
  update_from(s, s.range.g, rule, without, states_are_zero, queue);
}

}  // namespace

void frugal_adamw(const FrugalSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest, bool states_are_zero,
                  GpuQueue& queue) {
  update<AdamWRule<Ops>>(slice, scalars, rest, states_are_zero, queue);
}
void frugal_lion(const FrugalSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest, bool states_are_zero,
                 GpuQueue& queue) {
  update<LionRule<Ops>>(slice, scalars, rest, states_are_zero, queue);
}
void frugal_momentum(const FrugalSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest,
                     bool states_are_zero, GpuQueue& queue) {
  update<FrugalMomentumRule<Ops>>(slice, scalars, rest, states_are_zero, queue);
}

}  // namespace strata::STRATA_GPU
