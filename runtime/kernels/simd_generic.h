// Portable body of simd.h's vector type: 4 lanes of f32 by the compiler's vector extension. Included by simd.h only.
// fma is a product and a sum here (two roundings): without hardware support a fused one is a slow library call.
#pragma once

#if !defined(STRATA_ISA_avx2) && !defined(STRATA_ISA_avx512)

#include <cstdint>
#include <cstring>

#include "runtime/dtype.h"

namespace strata::STRATA_ISA {

using F4 = float __attribute__((vector_size(16)));
using U4 = std::uint32_t __attribute__((vector_size(16)));
using I4 = std::int32_t __attribute__((vector_size(16)));

struct Vec {
  static constexpr int kLanes = 4;
  F4 v;
};

inline Vec splat(float x) { return {F4{x, x, x, x}}; }
inline Vec load(const float* p) {
  Vec a;
  std::memcpy(&a.v, p, sizeof a.v);
  return a;
}
inline void store(Vec a, float* p) { std::memcpy(p, &a.v, sizeof a.v); }

inline Vec load(const bf16* p) {
  const U4 u = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  return {reinterpret_cast<F4>(u << 16)};
}
inline void store(Vec a, bf16* p) {
  const U4 u = reinterpret_cast<U4>(a.v);
  const U4 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U4 canonical = U4{} + kBf16CanonicalNaN;
  const U4 fixed = (u & 0x7fffffffu) > 0x7f800000u ? canonical : rounded;
  for (int i = 0; i < 4; ++i) p[i].bits = static_cast<std::uint16_t>(fixed[i]);
}

template <class T>
inline Vec load_n(const T* p, int n) {
  T lanes[4] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T>
inline void store_n(Vec a, T* p, int n) {
  T lanes[4];
  store(a, lanes);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec select_first(int n, Vec a, Vec b) { return {I4{0, 1, 2, 3} < n ? a.v : b.v}; }

// x * 2^n for integral n in [-250, 250]: in two factors, so that neither leaves the range of normal numbers.
inline Vec scale_by_power(Vec x, Vec n) {
  const F4 magic = F4{} + 12582912.0f;  // 1.5 * 2^23: an integral n stands in its low bits after the sum
  const I4 i = reinterpret_cast<I4>(n.v + magic) - reinterpret_cast<I4>(magic);
  const I4 half = i >> 1;
  const F4 f0 = reinterpret_cast<F4>((half + 127) << 23);
  const F4 f1 = reinterpret_cast<F4>((i - half + 127) << 23);
  return {x.v * f0 * f1};
}

inline float reduce_add(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float reduce_max(Vec a) {
  const float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2];
  const float y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}

}  // namespace strata::STRATA_ISA

#endif
