// state_codes_rules.h on vectors, for files named *_simd.cpp; local to each, as update_ops_simd.h.
#pragma once

#include <cstdint>

#include "optim/state_codes_rules.h"
#include "optim/update_ops_simd.h"

namespace strata::STRATA_ISA {
namespace {

// The largest magnitude so far, as bits, in each lane: integers, so that NaN is the largest and the order does not matter.
#if defined(STRATA_ISA_avx512)
using Bits = __m512i;
inline Bits no_bits() { return _mm512_setzero_si512(); }
inline Bits largest(Bits so_far, Ops::V a) {
  return _mm512_max_epi32(so_far, _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
}
inline std::uint32_t largest_of(Bits lanes) { return static_cast<std::uint32_t>(_mm512_reduce_max_epi32(lanes)); }
inline Ops::V decode(const std::uint8_t* from, const StateCodes& codes) {
  const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm512_i32gather_ps(code, codes.values, 4);
}
template <bool kSigned>
void encode(std::uint8_t* to, Ops::V a, const StateCodes& codes) {
  const __m512i u = _mm512_castps_si512(a), magnitude = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
  const __m512i cell = _mm512_sub_epi32(_mm512_srli_epi32(magnitude, 16), _mm512_set1_epi32(StateCodes::kFirstCell));
  const __m512i inside =
      _mm512_min_epi32(_mm512_max_epi32(cell, _mm512_setzero_si512()), _mm512_set1_epi32(StateCodes::kCells - 1));
  const __m512i below = _mm512_and_si512(_mm512_i32gather_epi32(inside, codes.below, 1), _mm512_set1_epi32(0xff));
  const __m512i threshold = _mm512_i32gather_epi32(below, codes.thresholds, 4);
  __m512i code = _mm512_mask_add_epi32(below, _mm512_cmpgt_epi32_mask(magnitude, threshold), below, _mm512_set1_epi32(1));
  if constexpr (kSigned) {
    const __m512i zero = _mm512_set1_epi32(StateCodes::kSignedZero),
                  negative = _mm512_sub_epi32(zero, _mm512_min_epi32(code, zero));
    code = _mm512_mask_mov_epi32(_mm512_add_epi32(code, zero), _mm512_movepi32_mask(u), negative);
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(code));
}
#elif defined(STRATA_ISA_avx2)
using Bits = __m256i;
inline Bits no_bits() { return _mm256_setzero_si256(); }
inline Bits largest(Bits so_far, Ops::V a) {
  return _mm256_max_epi32(so_far, _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff)));
}
inline std::uint32_t largest_of(Bits lanes) {
  alignas(32) std::uint32_t all[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(all), lanes);
  std::uint32_t most = 0;
  for (const std::uint32_t lane : all) most = lane > most ? lane : most;
  return most;
}
inline Ops::V decode(const std::uint8_t* from, const StateCodes& codes) {
  const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  return _mm256_i32gather_ps(codes.values, code, 4);
}
template <bool kSigned>
void encode(std::uint8_t* to, Ops::V a, const StateCodes& codes) {
  const __m256i u = _mm256_castps_si256(a), magnitude = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
  const __m256i cell = _mm256_sub_epi32(_mm256_srli_epi32(magnitude, 16), _mm256_set1_epi32(StateCodes::kFirstCell));
  const __m256i inside =
      _mm256_min_epi32(_mm256_max_epi32(cell, _mm256_setzero_si256()), _mm256_set1_epi32(StateCodes::kCells - 1));
  const __m256i below =
      _mm256_and_si256(_mm256_i32gather_epi32(reinterpret_cast<const int*>(codes.below), inside, 1), _mm256_set1_epi32(0xff));
  const __m256i threshold = _mm256_i32gather_epi32(reinterpret_cast<const int*>(codes.thresholds), below, 4);
  __m256i code = _mm256_sub_epi32(below, _mm256_cmpgt_epi32(magnitude, threshold));
  if constexpr (kSigned) {
    const __m256i zero = _mm256_set1_epi32(StateCodes::kSignedZero),
                  negative = _mm256_sub_epi32(zero, _mm256_min_epi32(code, zero));
    code = _mm256_blendv_epi8(_mm256_add_epi32(code, zero), negative, _mm256_srai_epi32(u, 31));
  }
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#else
using Bits = std::uint32_t;
inline Bits no_bits() { return 0; }
inline Bits largest(Bits so_far, Ops::V a) {
  const std::uint32_t magnitude = __builtin_bit_cast(std::uint32_t, a) & 0x7fffffffu;
  return magnitude > so_far ? magnitude : so_far;
}
inline std::uint32_t largest_of(Bits lanes) { return lanes; }
inline Ops::V decode(const std::uint8_t* from, const StateCodes& codes) { return codes.values[*from]; }
template <bool kSigned>
void encode(std::uint8_t* to, Ops::V a, const StateCodes& codes) {
  const auto product = __builtin_bit_cast(std::uint32_t, a);
  *to = static_cast<std::uint8_t>(CodeRule<Ops>::code<kSigned>(product, codes.below, codes.thresholds));
}
#endif

}  // namespace
}  // namespace strata::STRATA_ISA
