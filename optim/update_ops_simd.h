// The operations of update_rules.h and its like on a vector of f32 of one instruction set, with loads and stores, for files
// named *_simd.cpp. Everything is local to the translation unit that includes this, so that no function compiled for AVX-512
// can be linked into code for an older processor.
#pragma once

#if !defined(STRATA_ISA)
#define STRATA_ISA isa_generic
#define STRATA_ISA_generic 1
#endif

#include <array>
#include <cstdint>

#include "optim/update_slice.h"
#include "runtime/dtype.h"

#if defined(STRATA_ISA_avx2) || defined(STRATA_ISA_avx512)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own avx512fintrin.h (GCC bug 105593)
#endif
#endif

namespace strata::STRATA_ISA {
namespace {

// Elements done at once in the main loop: their bf16 copies fill one cache line.
inline constexpr std::int64_t kChunk = 32;
inline constexpr std::uintptr_t kLine = 64;
// How far ahead lines are asked for: the processor's own prefetching follows the arrays less closely, and stops at each page.
inline constexpr std::int64_t kAhead = 256;

#if defined(STRATA_ISA_avx512)
struct Ops {
  using V = __m512;
  static constexpr std::int64_t kWidth = 16;
  static V set1(float x) { return _mm512_set1_ps(x); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V sqrt(V a) { return _mm512_sqrt_ps(a); }
  static V sign(V a) {
    const V one = _mm512_or_ps(_mm512_and_ps(a, _mm512_set1_ps(-0.0f)), _mm512_set1_ps(1.0f));
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_OQ), one);
  }
  static V canonical(V a) {
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
  }
  static V load(const float* from) { return _mm512_loadu_ps(from); }
  static V widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
  static V load(const bf16* from) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
  static void store(float* to, V a) { _mm512_storeu_ps(to, a); }
  static __mmask16 first(std::int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static V load_first(const float* from, std::int64_t n) { return _mm512_maskz_loadu_ps(first(n), from); }
  static V load_first(const bf16* from, std::int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), from)); }
  static void store_first(float* to, V a, std::int64_t n) { _mm512_mask_storeu_ps(to, first(n), a); }
  // a holds no NaN but the canonical one, which this rounding maps to bf16's canonical NaN.
  static __m256i round16(V a) {
    const __m512i u = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
  }
  static void store16_first(bf16* to, V a, std::int64_t n) { _mm256_mask_storeu_epi16(to, first(n), round16(a)); }
  static void stream16(bf16* to, const V* a) {
    const __m512i line = _mm512_inserti64x4(_mm512_castsi256_si512(round16(a[0])), round16(a[1]), 1);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
  }
  static void fence() { _mm_sfence(); }
};
#elif defined(STRATA_ISA_avx2)
struct Ops {
  using V = __m256;
  static constexpr std::int64_t kWidth = 8;
  static V set1(float x) { return _mm256_set1_ps(x); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V sqrt(V a) { return _mm256_sqrt_ps(a); }
  static V sign(V a) {
    const V one = _mm256_or_ps(_mm256_and_ps(a, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f));
    return _mm256_blendv_ps(a, one, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_OQ));
  }
  static V canonical(V a) {
    return _mm256_blendv_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static V load(const float* from) { return _mm256_loadu_ps(from); }
  static V load(const bf16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void store(float* to, V a) { _mm256_storeu_ps(to, a); }
  static __m256i first(std::int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V load_first(const float* from, std::int64_t n) { return _mm256_maskload_ps(from, first(n)); }
  static V load_first(const bf16* from, std::int64_t n) {
    bf16 all[kWidth] = {};
    for (std::int64_t i = 0; i < n; ++i) all[i] = from[i];
    return load(all);
  }
  static void store_first(float* to, V a, std::int64_t n) { _mm256_maskstore_ps(to, first(n), a); }
  static __m256i rounded(V a) {
    const __m256i u = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  }
  static __m256i round16(V low, V high) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded(low), rounded(high)), 0xd8);
  }
  static void store16_first(bf16* to, V a, std::int64_t n) {
    alignas(32) std::uint16_t bits[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bits), round16(a, a));
    for (std::int64_t i = 0; i < n; ++i) to[i].bits = bits[i];
  }
  static void stream16(bf16* to, const V* a) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), round16(a[0], a[1]));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 16), round16(a[2], a[3]));
  }
  static void fence() { _mm_sfence(); }
};
#else
struct Ops {
  using V = float;
  static constexpr std::int64_t kWidth = 1;
  static V set1(float x) { return x; }
  static V mul(V a, V b) { return a * b; }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V fma(V a, V b, V c) { return __builtin_fmaf(a, b, c); }  // exact where it is a library call too
  static V div(V a, V b) { return a / b; }
  static V sqrt(V a) { return __builtin_sqrtf(a); }
  static V sign(V a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a; }
  static V canonical(V a) { return a != a ? __builtin_nanf("") : a; }
  static V load(const float* from) { return *from; }
  static V load(const bf16* from) { return to_float(*from); }
  static void store(float* to, V a) { *to = a; }
  template <class T>
  static V load_first(const T* from, std::int64_t) {
    return load(from);
  }
  static void store_first(float* to, V a, std::int64_t) { *to = a; }
  static void store16_first(bf16* to, V a, std::int64_t) { *to = to_bf16(a); }
  static void stream16(bf16* to, const V* a) {
    for (std::int64_t i = 0; i < kChunk; ++i) to[i] = to_bf16(a[i]);
  }
  static void fence() {}
};
#endif

template <class T>
void prefetch_chunk(const T* from) {
  for (std::int64_t i = 0; i < kChunk; i += kLine / sizeof(T)) __builtin_prefetch(from + i);
}

// Where the results go.
template <int kStates>
struct Results {
  float* p;
  std::array<float*, kStates> states;
  explicit Results(const UpdateSlice& s) : p(s.new_p != nullptr ? s.new_p : s.p), states() {
    for (int k = 0; k < kStates; ++k) states[k] = s.new_p != nullptr ? s.new_states[k] : s.states[k];
  }
};

// How many elements lie before the first whole line of p16, at most n. Whole lines of it are streamed past the caches: nothing
// on this processor reads them soon.
inline std::int64_t elements_to_line(const bf16* p16, std::int64_t n) {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(p16) % kLine;
  const auto to_line = static_cast<std::int64_t>((kLine - misaligned) % kLine / sizeof(bf16));
  return to_line < n ? to_line : n;
}

}  // namespace
}  // namespace strata::STRATA_ISA
