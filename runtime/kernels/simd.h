// One vector of f32 lanes for files named *_simd.cpp, which are compiled once per instruction set (cmake/StrataTargets.cmake).
//
//   Vec                 kLanes is 16 (avx512), 8 (avx2) or 4 (generic)
//   load, store         f32 or bf16, any alignment; bf16 is rounded as dtype.h's to_bf16 does, to the bit
//   load_n, store_n     the first n lanes (0 <= n <= kLanes), the rest of a loaded vector is zero; touch no other memory
//   + - * /, fma        fma(a, b, c) = a * b + c, fused except on generic
//   max, min            b where a or b is NaN, as x86 does
//   select_first(n, a, b)  lanes below n from a, the others from b
//   reduce_add, reduce_max a fixed tree over the lanes
//   exp, sigmoid, for_each_vec, get, put below
//
// Everything, helpers too, lives in namespace STRATA_ISA: an inline function of a common namespace compiled with AVX-512
// could be the copy that the linker keeps for all. Include nothing here whose inline functions may be emitted out of line.
#pragma once

#if !defined(STRATA_ISA)
#define STRATA_ISA isa_generic
#define STRATA_ISA_generic 1
#endif

#include <cstdint>

#include "runtime/kernels/simd_avx2.h"
#include "runtime/kernels/simd_avx512.h"
#include "runtime/kernels/simd_generic.h"

namespace strata::STRATA_ISA {

// e^x within 2 ulp; 0 below -104, infinity above 88.73, denormal results kept, NaN stays NaN.
// Cody-Waite reduction x = n ln2 + r, |r| <= ln2/2; the polynomial is a Chebyshev fit of (e^r - 1 - r) / r^2.
inline Vec exp(Vec x) {
  const Vec c = min(splat(89.0f), max(splat(-104.0f), x));
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = fma(c, splat(1.44269504f), magic) - magic;
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), c));  // n * 0.693359375 is exact
  Vec p = splat(0.0013933732407167554f);
  p = fma(p, r, splat(0.008363235741853714f));
  p = fma(p, r, splat(0.041666463017463684f));
  p = fma(p, r, splat(0.16666576266288757f));
  p = fma(p, r, splat(0.5f));
  const Vec y = fma(r * r, p, r) + splat(1.0f);
  return scale_by_power(y, n);
}

// 1 / (1 + e^-x), relative error within 4 ulp also where it is tiny.
inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - x)); }

// Walks [0, count): body(i, n) for whole vectors (n is the constant kLanes there), then once for the rest, if any.
// get and put are load and store for such an n.
template <class Body>
[[gnu::always_inline]] inline void for_each_vec(std::int64_t count, Body body) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) body(i, Vec::kLanes);
  if (i < count) body(i, static_cast<int>(count - i));
}

template <class T>
[[gnu::always_inline]] inline Vec get(const T* p, int n) {
  return n == Vec::kLanes ? load(p) : load_n(p, n);
}
template <class T>
[[gnu::always_inline]] inline void put(Vec v, T* p, int n) {
  if (n == Vec::kLanes)
    store(v, p);
  else
    store_n(v, p, n);
}

}  // namespace strata::STRATA_ISA
