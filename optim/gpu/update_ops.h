// The operations of update_rules.h and its like on a GPU, each rounded once and never contracted.
#pragma once

#include "runtime/gpu/device.h"
#include "runtime/host_device.h"

namespace strata::STRATA_GPU {

struct Ops {
  using V = float;
  STRATA_HOST_DEVICE static V set1(float x) { return x; }
  STRATA_DEVICE static V add(V a, V b) { return add_rn(a, b); }
  STRATA_DEVICE static V sub(V a, V b) { return sub_rn(a, b); }
  STRATA_DEVICE static V mul(V a, V b) { return mul_rn(a, b); }
  STRATA_DEVICE static V fma(V a, V b, V c) { return fma_rn(a, b, c); }
  STRATA_DEVICE static V div(V a, V b) { return div_rn(a, b); }
  STRATA_DEVICE static V sqrt(V a) { return sqrt_rn(a); }
  STRATA_DEVICE static V sign(V a) {
    const auto bits = float_to_bits(a), magnitude = bits & 0x7fffffffu;
    return magnitude == 0u || magnitude > 0x7f800000u ? a : bits_to_float((bits & 0x80000000u) | 0x3f800000u);
  }
  // By integers: no compiler flag can assume that there is no NaN.
  STRATA_DEVICE static V canonical(V a) {
    return (float_to_bits(a) & 0x7fffffffu) > 0x7f800000u ? bits_to_float(0x7fc00000u) : a;
  }
};

}  // namespace strata::STRATA_GPU
