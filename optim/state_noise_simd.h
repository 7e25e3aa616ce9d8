// state_noise.h on vectors, for files named *_simd.cpp; local to each, as update_ops_simd.h.
#pragma once

#include <cstdint>

#include "optim/state_noise.h"
#include "optim/update_ops_simd.h"
#include "runtime/kernels/normal_rule.h"

namespace strata::STRATA_ISA {
namespace {

// The words of 4 * kNoiseBlocks elements, of whole Philox blocks from `block` on. On vectors a 64-bit lane has one word of each
// of four counters below; which block a lane has makes the two interleavings at the end give words in the order of elements.
#if defined(STRATA_ISA_avx512)
inline constexpr std::int64_t kNoiseBlocks = 8;
inline void noise_blocks(const StateNoise& noise, std::uint64_t block, std::uint32_t* words) {
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
  const __m512i index =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(block)), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
  __m512i c0 = index, c1 = _mm512_srli_epi64(index, 32), c2 = _mm512_set1_epi64(noise.step[0]),
          c3 = _mm512_set1_epi64(noise.step[1]);
  std::uint32_t key0 = noise.key[0], key1 = noise.key[1];
  using Rule = kernels::PhiloxRule<Ops>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    const __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1);
    c0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p1, 32), c1), _mm512_set1_epi64(key0));
    c1 = p1;
    c2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), c3), _mm512_set1_epi64(key1));
    c3 = p0;
    Rule::next_keys(key0, key1);
  }
  const __m512i low = _mm512_mask_mov_epi32(c0, 0xaaaa, _mm512_slli_epi64(c1, 32));
  const __m512i high = _mm512_mask_mov_epi32(c2, 0xaaaa, _mm512_slli_epi64(c3, 32));
  _mm512_storeu_si512(words, _mm512_unpacklo_epi64(low, high));
  _mm512_storeu_si512(words + 16, _mm512_unpackhi_epi64(low, high));
}
#elif defined(STRATA_ISA_avx2)
inline constexpr std::int64_t kNoiseBlocks = 4;
inline void noise_blocks(const StateNoise& noise, std::uint64_t block, std::uint32_t* words) {
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
  const __m256i index = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(block)), _mm256_setr_epi64x(0, 2, 1, 3));
  __m256i c0 = index, c1 = _mm256_srli_epi64(index, 32), c2 = _mm256_set1_epi64x(noise.step[0]),
          c3 = _mm256_set1_epi64x(noise.step[1]);
  std::uint32_t key0 = noise.key[0], key1 = noise.key[1];
  using Rule = kernels::PhiloxRule<Ops>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(key0));
    c1 = p1;
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(key1));
    c3 = p0;
    Rule::next_keys(key0, key1);
  }
  const __m256i low = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
  const __m256i high = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_unpacklo_epi64(low, high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), _mm256_unpackhi_epi64(low, high));
}
#else
inline constexpr std::int64_t kNoiseBlocks = 1;
inline void noise_blocks(const StateNoise& noise, std::uint64_t block, std::uint32_t* words) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32), c2 = noise.step[0],
                c3 = noise.step[1], key0 = noise.key[0], key1 = noise.key[1];
  using Rule = kernels::PhiloxRule<Ops>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    Rule::round(c0, c1, c2, c3, key0, key1);
    Rule::next_keys(key0, key1);
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}
#endif

// Words of kChunk elements and, behind them, of a vector that is not whole.
struct NoiseWords {
  alignas(kLine) std::uint32_t words[2 * kChunk];

  // Of elements [at, at + kChunk) of the slice; what it gives has them in their order.
  const std::uint32_t* draw(const StateNoise& noise, std::int64_t at) {
    const auto element = static_cast<std::uint64_t>(noise.first + at);
    const auto skip = static_cast<std::int64_t>(element % 4);
    for (std::int64_t b = 0; 4 * b < kChunk + skip; b += kNoiseBlocks)
      noise_blocks(noise, element / 4 + static_cast<std::uint64_t>(b), words + 4 * b);
    return words + skip;
  }
};

// Stores a as bf16, rounded by its words.
#if defined(STRATA_ISA_avx512)
inline __m256i rounded16(Ops::V a, const std::uint32_t* words, int state) {
  const __m512i drawn = _mm512_loadu_si512(words);
  const __m512i noise = state == 0 ? _mm512_and_si512(drawn, _mm512_set1_epi32(0xffff)) : _mm512_srli_epi32(drawn, 16);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(a), noise), 16));
}
inline void store_rounded(bf16* to, Ops::V a, const std::uint32_t* words, int state) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded16(a, words, state));
}
inline void store_rounded_first(bf16* to, Ops::V a, const std::uint32_t* words, int state, std::int64_t n) {
  _mm256_mask_storeu_epi16(to, Ops::first(n), rounded16(a, words, state));
}
#elif defined(STRATA_ISA_avx2)
inline void store_rounded(bf16* to, Ops::V a, const std::uint32_t* words, int state) {
  const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  const __m256i noise = state == 0 ? _mm256_and_si256(drawn, _mm256_set1_epi32(0xffff)) : _mm256_srli_epi32(drawn, 16);
  const __m256i kept = _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(a), noise), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(kept, kept), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
inline void store_rounded_first(bf16* to, Ops::V a, const std::uint32_t* words, int state, std::int64_t n) {
  bf16 all[Ops::kWidth];
  store_rounded(all, a, words, state);
  for (std::int64_t i = 0; i < n; ++i) to[i] = all[i];
}
#else
inline void store_rounded(bf16* to, Ops::V a, const std::uint32_t* words, int state) {
  const std::uint32_t noise = state == 0 ? *words & 0xffffu : *words >> 16;
  to->bits = static_cast<std::uint16_t>((__builtin_bit_cast(std::uint32_t, a) + noise) >> 16);
}
inline void store_rounded_first(bf16* to, Ops::V a, const std::uint32_t* words, int state, std::int64_t) {
  store_rounded(to, a, words, state);
}
#endif

}  // namespace
}  // namespace strata::STRATA_ISA
