// AdamW on a GPU: the formula of adamw_math.h over operations that are rounded once and never contracted.
#include "optim/adamw_math.h"
#include "optim/gpu_kernels.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

struct Ops {
  using V = float;
  STRATA_HOST_DEVICE static V set1(float x) { return x; }
  STRATA_DEVICE static V mul(V a, V b) { return mul_rn(a, b); }
  STRATA_DEVICE static V sub(V a, V b) { return sub_rn(a, b); }
  STRATA_DEVICE static V fma(V a, V b, V c) { return fma_rn(a, b, c); }
  STRATA_DEVICE static V div(V a, V b) { return div_rn(a, b); }
  STRATA_DEVICE static V sqrt(V a) { return sqrt_rn(a); }
  // By integers: no compiler flag can assume that there is no NaN.
  STRATA_DEVICE static V canonical(V a) {
    return (float_to_bits(a) & 0x7fffffffu) > 0x7f800000u ? bits_to_float(0x7fc00000u) : a;
  }
};

template <class G>
STRATA_KERNEL adamw_kernel(AdamWSlice s, const G* gradient, Units units, AdamWCoefficients<Ops> c) {
  const Unit unit = unit_of_thread(units);
  float p[kUnit], m[kUnit], v[kUnit], g[kUnit];
  load_unit(s.p, unit, 0.0f, p);
  load_unit(s.m, unit, 0.0f, m);
  load_unit(s.v, unit, 0.0f, v);
  load_unit(gradient, unit, 0.0f, g);
  for (int k = 0; k < kUnit; ++k) adamw_element<Ops>(p[k], m[k], v[k], g[k], c);
  store_unit(p, s.new_p, unit);
  store_unit(m, s.new_m, unit);
  store_unit(v, s.new_v, unit);
  if (s.p16 != nullptr) store_unit(p, s.p16, unit);
}

template <class G>
void update(AdamWSlice s, const G* g, const AdamWScalars& scalars, GpuQueue& queue) {
  if (s.new_p == nullptr) s.new_p = s.p, s.new_m = s.m, s.new_v = s.v;
  const int phase = s.p16 == nullptr ? common_phase(s.p, s.m, s.v, s.new_p, s.new_m, s.new_v, g)
                                     : common_phase(s.p, s.m, s.v, s.new_p, s.new_m, s.new_v, g, s.p16);
  const Units units = {s.n, phase};
  launch(queue, adamw_kernel<G>, grid_of(units), kThreads, 0, s, g, units, AdamWCoefficients<Ops>(scalars, s.decay));
}

void adamw_update(const AdamWSlice& s, const AdamWScalars& scalars, GpuQueue& queue) {
  if (s.g16 != nullptr) return update(s, s.g16, scalars, queue);
  update(s, s.g, scalars, queue);
}

}  // namespace

const OptimGpuKernels& optim_kernel_table() {
  static constexpr OptimGpuKernels kTable = {.adamw_update = adamw_update};
  return kTable;
}

}  // namespace strata::STRATA_GPU
