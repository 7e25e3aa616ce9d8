#include <cstring>

#include "runtime/kernels/elementwise_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

constexpr std::int64_t kNormBlock = 4096;  // elementwise.h

template <class T>
void add(const T* a, const T* b, T* y, std::int64_t count) {
  for_each_vec(count, [=](std::int64_t i, int n) { put(get(a + i, n) + get(b + i, n), y + i, n); });
}

template <class From, class To>
void convert(const From* x, To* y, std::int64_t count) {
  for_each_vec(count, [=](std::int64_t i, int n) { put(get(x + i, n), y + i, n); });
}

void accumulate(const float* x, float* acc, std::int64_t n) { add(acc, x, acc, n); }

#if defined(STRATA_ISA_avx2) || defined(STRATA_ISA_avx512)

// The hardware rounds to f16 as dtype.h does, except that it keeps the payload of a NaN.
__m128i narrow_f16(__m256 x) {
  const __m128i y = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m128i nan16 = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
  return _mm_blendv_epi8(y, _mm_set1_epi16(static_cast<short>(kF16CanonicalNaN)), nan16);
}

// The hardware sets the quiet bit of a NaN; dtype.h keeps the bits.
__m256 widen_f16(__m128i x) {
  const __m256 y = _mm256_cvtph_ps(x);
  const __m256 nan = _mm256_cmp_ps(y, y, _CMP_UNORD_Q);
  if (_mm256_movemask_ps(nan) == 0) [[likely]]
    return y;
  const __m256i u = _mm256_cvtepu16_epi32(x);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x8000)), 16);
  const __m256i payload = _mm256_slli_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x3ff)), 13);
  const __m256i kept = _mm256_or_si256(_mm256_or_si256(sign, payload), _mm256_set1_epi32(0x7f800000));
  return _mm256_blendv_ps(y, _mm256_castsi256_ps(kept), nan);
}

void f32_to_f16(const float* x, f16* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), narrow_f16(_mm256_loadu_ps(x + i)));
  if (i == n) return;
  alignas(32) float in[8] = {};
  alignas(16) f16 out[8];
  for (std::int64_t j = i; j < n; ++j) in[j - i] = x[j];
  _mm_store_si128(reinterpret_cast<__m128i*>(out), narrow_f16(_mm256_load_ps(in)));
  for (std::int64_t j = i; j < n; ++j) y[j] = out[j - i];
}

void f16_to_f32(const f16* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, widen_f16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  if (i == n) return;
  alignas(16) f16 in[8] = {};
  alignas(32) float out[8];
  for (std::int64_t j = i; j < n; ++j) in[j - i] = x[j];
  _mm256_store_ps(out, widen_f16(_mm_load_si128(reinterpret_cast<const __m128i*>(in))));
  for (std::int64_t j = i; j < n; ++j) y[j] = out[j - i];
}

#else

void f32_to_f16(const float* x, f16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = to_f16(x[i]);
}
void f16_to_f32(const f16* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = to_float(x[i]);
}

#endif

// 16 double lanes as kGroups hardware vectors. A product of two f32 is exact in double, so only the order of the sums
// matters, and that is the same for every width.
constexpr int kWidth = Vec::kLanes / 2;
constexpr int kGroups = 16 / kWidth;
using Doubles = double __attribute__((vector_size(kWidth * 8)));
using Floats = float __attribute__((vector_size(kWidth * 4)));

double sum_squares(const float* x, std::int64_t n) {
  Doubles groups[kGroups] = {};
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int g = 0; g < kGroups; ++g) {
      Floats f;
      std::memcpy(&f, x + i + g * kWidth, sizeof f);
      const Doubles d = __builtin_convertvector(f, Doubles);
      groups[g] += d * d;
    }
  }
  double lanes[16];
  std::memcpy(lanes, groups, sizeof lanes);
  for (; i < n; ++i) lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

void sum_squares_blocks(const float* x, std::int64_t n, double* partials) {
  for (std::int64_t first = 0, k = 0; first < n; first += kNormBlock, ++k)
    partials[k] = sum_squares(x + first, n - first < kNormBlock ? n - first : kNormBlock);
}

std::uint64_t sum_relative_changes(const float* before, const float* after, std::int64_t n) {
  constexpr float kIntegral = 8388608.0f;  // 2^23: from here on every float is an integer
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    float change = (before[i] - after[i]) / before[i];
    change = change < 0.0f ? -change : change;
    change = change < 1.0f ? change : 1.0f;
    change = before[i] == 0.0f ? 0.0f : change * 0x1p30f;
    change = change < kIntegral ? change + kIntegral - kIntegral : change;
    sum += static_cast<std::uint32_t>(static_cast<std::int32_t>(change));
  }
  return sum;
}

bool all_finite_f32(const float* x, std::int64_t n) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t u;
    std::memcpy(&u, x + i, sizeof u);
    bad |= static_cast<std::uint32_t>((u & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

bool all_finite_16(const std::uint16_t* x, std::uint16_t mask, std::int64_t n) {
  std::uint16_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) bad = static_cast<std::uint16_t>(bad | ((x[i] & mask) == mask ? 1 : 0));
  return bad == 0;
}

}  // namespace

const kernels::ElementwiseTable& elementwise_table() {
  static constexpr kernels::ElementwiseTable kTable = {
      .add_f32 = add<float>,
      .add_bf16 = add<bf16>,
      .f32_to_bf16 = convert<float, bf16>,
      .bf16_to_f32 = convert<bf16, float>,
      .f32_to_f16 = f32_to_f16,
      .f16_to_f32 = f16_to_f32,
      .accumulate_f32 = accumulate,
      .sum_squares_blocks = sum_squares_blocks,
      .sum_relative_changes = sum_relative_changes,
      .all_finite_f32 = all_finite_f32,
      .all_finite_16 = all_finite_16,
  };
  return kTable;
}

}  // namespace strata::STRATA_ISA
