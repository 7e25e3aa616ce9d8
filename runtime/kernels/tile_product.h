// Small matrix products for files named *_simd.cpp: C[m][n] (+)= sum over k of A(m, k) B[k][n] with everything in cache.
// A is broadcast element by element and may have any strides; B and C are read by vectors along n.
//
// "Word": 4 bytes, one f32 or a pair of bf16 that are neighbours along the inner dim. K counts words.
#pragma once

#include <cstdint>

#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {

struct OperandA {
  const void* data;
  std::int64_t row_bytes;   // from A(m, k) to A(m + 1, k)
  std::int64_t word_bytes;  // from A(m, k) to A(m, k + 1)
};

struct F32Math {
  static constexpr int kPerWord = 1;
  static Vec broadcast(const char* p) {
    float x;
    __builtin_memcpy(&x, p, sizeof x);
    return splat(x);
  }
  static Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
  // The first n words at p, the others zero.
  template <class T>
  static Vec words(const T* p, int n) {
    return get(p, n);
  }
};

#if defined(STRATA_ISA_avx512)
// Two products a word, with the instructions of AVX512_BF16: f32 sums, denormals count as zero. The processor must have them;
// by name because these files are compiled for processors that need not.
struct Bf16PairMath {
  static constexpr int kPerWord = 2;
  static Vec broadcast(const char* p) { return F32Math::broadcast(p); }
  static Vec multiply_add(Vec a, Vec b, Vec sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
    return sum;
  }
  static Vec words(const bf16* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
  // Rounds to bf16, to nearest even; every NaN becomes the canonical one.
  static Vec pair(Vec low, Vec high) {
    const __m512i top = _mm512_and_si512(rounded(high), _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(rounded(low), 16), top))};
  }

 private:
  static __m512i rounded(Vec a) {
    const __m512i u = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_epi32(kBf16CanonicalNaN << 16));
  }
};
#endif

// (low, high) = a0 b0 a1 b1 a2 b2 ...
inline void interleave(Vec a, Vec b, Vec& low, Vec& high) {
#if defined(STRATA_ISA_avx512)
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  low.v = _mm512_permutex2var_ps(a.v, first, b.v);
  high.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(first, _mm512_set1_epi32(8)), b.v);
#elif defined(STRATA_ISA_avx2)
  const __m256 even = _mm256_unpacklo_ps(a.v, b.v), odd = _mm256_unpackhi_ps(a.v, b.v);
  low.v = _mm256_permute2f128_ps(even, odd, 0x20);
  high.v = _mm256_permute2f128_ps(even, odd, 0x31);
#else
  low.v = F4{a.v[0], b.v[0], a.v[1], b.v[1]};
  high.v = F4{a.v[2], b.v[2], a.v[3], b.v[3]};
#endif
}

// rows[i] lane j <-> rows[j] lane i: a perfect shuffle of halves for every power of two.
inline void transpose(Vec (&rows)[Vec::kLanes]) {
  constexpr int kHalf = Vec::kLanes / 2;
  for (int size = 1; size < Vec::kLanes; size *= 2) {
    Vec next[Vec::kLanes];
    for (int i = 0; i < kHalf; ++i) interleave(rows[i], rows[i + kHalf], next[2 * i], next[2 * i + 1]);
    for (int i = 0; i < Vec::kLanes; ++i) rows[i] = next[i];
  }
}

#if defined(STRATA_ISA_avx512)  // 32 registers: 24 sums, 4 of B, 1 of A
inline constexpr int kProductRows = 6, kProductVecs = 4;
#elif defined(STRATA_ISA_avx2)  // 16 registers: 12 sums, 2 of B, 1 of A
inline constexpr int kProductRows = 6, kProductVecs = 2;
#else
inline constexpr int kProductRows = 4, kProductVecs = 2;
#endif

// kRows rows by kVecs vectors, summed in registers.
template <class Math, int kRows, int kVecs>
void product_block(std::int64_t K, OperandA a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  Vec sum[kRows][kVecs];
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVecs; ++v) sum[m][v] = accumulate ? load(c + m * ldc + v * Vec::kLanes) : splat(0.0f);
  }
  const char* at = static_cast<const char*>(a.data);
  for (std::int64_t k = 0; k < K; ++k, at += a.word_bytes, b += ldb) {
    Vec bv[kVecs];
    for (int v = 0; v < kVecs; ++v) bv[v] = load(b + v * Vec::kLanes);
    for (int m = 0; m < kRows; ++m) {
      const Vec am = Math::broadcast(at + m * a.row_bytes);
      for (int v = 0; v < kVecs; ++v) sum[m][v] = Math::multiply_add(am, bv[v], sum[m][v]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVecs; ++v) store(sum[m][v], c + m * ldc + v * Vec::kLanes);
  }
}

// The last 1 to kRows rows.
template <class Math, int kRows, int kVecs>
void product_rest(std::int64_t rows, std::int64_t K, OperandA a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                  bool accumulate) {
  if (rows == kRows) return product_block<Math, kRows, kVecs>(K, a, b, ldb, c, ldc, accumulate);
  if constexpr (kRows > 1) product_rest<Math, kRows - 1, kVecs>(rows, K, a, b, ldb, c, ldc, accumulate);
}

template <class Math, int kVecs>
void product_columns(std::int64_t M, std::int64_t K, OperandA a, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                     bool accumulate) {
  for (; M > kProductRows; M -= kProductRows) {
    product_block<Math, kProductRows, kVecs>(K, a, b, ldb, c, ldc, accumulate);
    a.data = static_cast<const char*>(a.data) + kProductRows * a.row_bytes;
    c += kProductRows * ldc;
  }
  if (M > 0) product_rest<Math, kProductRows, kVecs>(M, K, a, b, ldb, c, ldc, accumulate);
}

// N is a multiple of Vec::kLanes. b holds words.
template <class Math>
void tile_product(std::int64_t M, std::int64_t N, std::int64_t K, const OperandA& a, const float* b, std::int64_t ldb, float* c,
                  std::int64_t ldc, bool accumulate) {
  std::int64_t n = 0;
  constexpr std::int64_t kWide = kProductVecs * Vec::kLanes;
  for (; n + kWide <= N; n += kWide) product_columns<Math, kProductVecs>(M, K, a, b + n, ldb, c + n, ldc, accumulate);
  for (; n < N; n += Vec::kLanes) product_columns<Math, 1>(M, K, a, b + n, ldb, c + n, ldc, accumulate);
}

}  // namespace strata::STRATA_ISA
