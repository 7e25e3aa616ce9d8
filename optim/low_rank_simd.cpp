// The passes over blocks of rows on a processor, one body per instruction set. Rows are taken kRows at a time, and of the inner
// dim kDepth: a piece of the gradient, scaled and widened, is in L2, and a strip of the projection, copied together, in L1.
// Sums that stop in between go on from where they were, so none of this is seen in a bit.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "optim/low_rank_kernels.h"
#include "optim/low_rank_rules.h"
#include "runtime/kernels/tile_product.h"

namespace strata::STRATA_ISA {
namespace {

constexpr std::int64_t kRows = kLowRankRows;
constexpr std::int64_t kDepth = 128;  // a multiple of kSquareLanes
constexpr std::int64_t kStrip = kProductVecs * Vec::kLanes;
constexpr std::int64_t kPad = 16;  // rows of projected values are padded to this many
static_assert(kDepth % kSquareLanes == 0 && kPad % kSquareLanes == 0 && kPad % Vec::kLanes == 0 && kDepth % Vec::kLanes == 0);

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// simd.h's generic fma rounds twice.
Vec fused(Vec a, Vec b, Vec c) {
#if defined(STRATA_ISA_avx2) || defined(STRATA_ISA_avx512)
  return fma(a, b, c);
#else
  for (int i = 0; i < Vec::kLanes; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
#endif
}

struct Ops {
  using V = Vec;
  static V set1(float x) { return splat(x); }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V mul(V a, V b) { return a * b; }
  static V div(V a, V b) { return a / b; }
  static V fma(V a, V b, V c) { return fused(a, b, c); }
#if defined(STRATA_ISA_avx512)
  static V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
  static V sign(V a) {
    const __m512 one = _mm512_or_ps(_mm512_and_ps(a.v, _mm512_set1_ps(-0.0f)), _mm512_set1_ps(1.0f));
    return {_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_OQ), one)};
  }
  static V canonical(V a) {
    return {_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q),
                               _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)))};
  }
#elif defined(STRATA_ISA_avx2)
  static V sqrt(V a) { return {_mm256_sqrt_ps(a.v)}; }
  static V sign(V a) {
    const __m256 one = _mm256_or_ps(_mm256_and_ps(a.v, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f));
    return {_mm256_blendv_ps(a.v, one, _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NEQ_OQ))};
  }
  static V canonical(V a) {
    return {_mm256_blendv_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
  }
#else
  static V sqrt(V a) {
    for (int i = 0; i < Vec::kLanes; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
    return a;
  }
  static V sign(V a) {
    for (int i = 0; i < Vec::kLanes; ++i)
      if (a.v[i] < 0.0f || a.v[i] > 0.0f) a.v[i] = __builtin_copysignf(1.0f, a.v[i]);
    return a;
  }
  static V canonical(V a) {
    for (int i = 0; i < Vec::kLanes; ++i) a.v[i] = a.v[i] != a.v[i] ? __builtin_nanf("") : a.v[i];
    return a;
  }
#endif
};

double canonical(double x) { return x != x ? __builtin_nan("") : x; }

// For tile_product(): each step one fma.
struct FusedMath {
  static constexpr int kPerWord = 1;
  static Vec broadcast(const char* p) { return F32Math::broadcast(p); }
  static Vec multiply_add(Vec a, Vec b, Vec sum) { return fused(a, b, sum); }
};

// A strip of one vector (all of it, where the rank is small) has few sums in a row: more rows at once keep the units busy.
constexpr int kNarrowRows = 12;

void multiply(std::int64_t rows, std::int64_t width, std::int64_t depth, const float* a, std::int64_t lda, const float* strip,
              float* c, std::int64_t ldc, bool accumulate) {
  if (width == Vec::kLanes) {
    for (; rows >= kNarrowRows; rows -= kNarrowRows, a += kNarrowRows * lda, c += kNarrowRows * ldc)
      product_block<FusedMath, kNarrowRows, 1>(depth, {a, lda * 4, 4}, strip, kStrip, c, ldc, accumulate);
  }
  tile_product<FusedMath>(rows, width, depth, {a, lda * 4, 4}, strip, kStrip, c, ldc, accumulate);
}

constexpr int kWidth = Vec::kLanes / 2;
constexpr int kGroups = kSquareLanes / kWidth;
using Doubles = double __attribute__((vector_size(kWidth * 8)));
using Floats = float __attribute__((vector_size(kWidth * 4)));

Doubles load_doubles(const float* from) {
  Floats f;
  std::memcpy(&f, from, sizeof f);
  return __builtin_convertvector(f, Doubles);
}

// Adds the squares of n values, a multiple of kSquareLanes, to the lanes.
void add_squares(const float* x, std::int64_t n, double* lanes) {
  Doubles sums[kGroups];
  std::memcpy(sums, lanes, sizeof sums);
  for (std::int64_t i = 0; i < n; i += kSquareLanes) {
    for (int g = 0; g < kGroups; ++g) {
      const Doubles d = load_doubles(x + i + g * kWidth);
      sums[g] += d * d;
    }
  }
  std::memcpy(lanes, sums, sizeof sums);
}

double total(const double* lanes) {
  double sums[kSquareLanes];
  std::memcpy(sums, lanes, sizeof sums);
  for (int half = kSquareLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return canonical(sums[0]);
}

double squares(const float* x, std::int64_t n) {
  double lanes[kSquareLanes] = {};
  add_squares(x, n, lanes);
  return total(lanes);
}

// The caller's memory, cut. r and n have a row of `padded` values for each of kRows.
struct Workspace {
  std::int64_t padded;
  float *tile, *strip, *row, *r, *n;
  Workspace(std::int64_t rank, float* memory)
      : padded(round_up(rank, kPad)),
        tile(memory),                  // kRows x kDepth of the gradient; or twice kRows x kStrip of what comes back
        strip(tile + kRows * kDepth),  // kDepth x kStrip of the projection
        row(strip + kDepth * kStrip),  // `padded`
        r(row + padded),
        n(r + kRows * padded) {}
  static std::int64_t size(std::int64_t rank) {
    return kRows * kDepth + kDepth * kStrip + round_up(rank, kPad) * (2 * kRows + 1);
  }
};
static_assert(2 * kStrip <= kDepth);

// g' of a piece, zeros up to a multiple of kSquareLanes.
template <class G>
void load_scaled(const G* g, std::int64_t stride, std::int64_t rows, std::int64_t depth, float grad_scale, float* tile) {
  const Vec scale = splat(grad_scale);
  const std::int64_t end = round_up(depth, kSquareLanes);
  for (std::int64_t i = 0; i < rows; ++i) {
    const G* from = g + i * stride;
    float* to = tile + i * kDepth;
    std::int64_t j = 0;
    for (; j + Vec::kLanes <= depth; j += Vec::kLanes) store(load(from + j) * scale, to + j);
    for (; j < end; j += Vec::kLanes) {
      const int n = static_cast<int>(j < depth ? depth - j : 0);
      store(select_first(n, load_n(from + (n > 0 ? j : 0), n) * scale, splat(0.0f)), to + j);
    }
  }
}

// w.r = g' P for `rows` rows, and the lanes of their squares. Columns behind the rank are of no use.
template <class G>
void project(const LowRankBlock& b, const G* g, std::int64_t rows, float grad_scale, const Workspace& w, double* lanes) {
  for (std::int64_t j = 0; j < b.columns; j += kDepth) {
    const std::int64_t depth = least(kDepth, b.columns - j);
    load_scaled(g + j, b.columns, rows, depth, grad_scale, w.tile);
    if (lanes != nullptr) {
      for (std::int64_t i = 0; i < rows; ++i)
        add_squares(w.tile + i * kDepth, round_up(depth, kSquareLanes), lanes + i * kSquareLanes);
    }
    for (std::int64_t k = 0; k < b.rank; k += kStrip) {
      const std::int64_t width = least(kStrip, b.rank - k);
      const std::int64_t whole = round_up(width, Vec::kLanes);
      for (std::int64_t d = 0; d < depth; ++d) {
        const float* from = b.projection + (j + d) * b.rank + k;
        float* to = w.strip + d * kStrip;
        for (std::int64_t c = 0; c < whole; c += Vec::kLanes)
          store(get(from + c, static_cast<int>(least(Vec::kLanes, width - c))), to + c);
      }
      multiply(rows, whole, depth, w.tile, kDepth, w.strip, w.r + k, w.padded, j > 0);
    }
  }
}

// The moments of a row of R, and what `rule` makes of both, which may take R's place; zeros behind the rank. zero: the moments
// are, whatever is stored.
template <class Rule>
void update_moments(const LowRankBlock& b, std::int64_t row, const Rule& rule, bool zero, float* r, float* direction) {
  const std::int64_t at = row * b.rank;
  float* new_m = (b.new_m != nullptr ? b.new_m : b.m) + at;
  float* new_v = nullptr;
  if constexpr (Rule::kStates == 2) new_v = (b.new_v != nullptr ? b.new_v : b.v) + at;
  for_each_vec(b.rank, [&](std::int64_t k, int n) {
    const Vec projected = get(r + k, n);
    Vec m = splat(0.0f), v = splat(0.0f);
    if (!zero) {
      m = get(b.m + at + k, n);
      if constexpr (Rule::kStates == 2) v = get(b.v + at + k, n);
    }
    const Vec step = rule.update(projected, m, v);
    put(m, new_m + k, n);
    if constexpr (Rule::kStates == 2) put(v, new_v + k, n);
    store(projected, r + k);
    store(select_first(n, step, splat(0.0f)), direction + k);
  });
  for (std::int64_t k = round_up(b.rank, Vec::kLanes); k < round_up(b.rank, kPad); ++k) r[k] = direction[k] = 0.0f;
}

template <class G>
void apollo_rows(const LowRankBlock& b, const G* g, const LowRankScalars& scalars, const RowResults& results, float* memory) {
  const MomentsRule<Ops> rule(scalars);
  const Workspace w(b.rank, memory);
  alignas(64) double lanes[kRows * kSquareLanes];
  for (std::int64_t first = 0; first < b.rows; first += kRows) {
    const std::int64_t rows = least(kRows, b.rows - first);
    std::memset(lanes, 0, sizeof lanes);
    project(b, g + first * b.columns, rows, scalars.grad_scale, w, lanes);
    for (std::int64_t i = 0; i < rows; ++i) {
      float* r = w.r + i * w.padded;
      update_moments(b, first + i, rule, false, r, w.row);
      const double n_squares = squares(w.row, w.padded), r_squares = squares(r, w.padded);
      const auto s = static_cast<float>(__builtin_sqrt(n_squares) / (__builtin_sqrt(r_squares) + kNormEps));
      results.s[first + i] = s != s ? __builtin_nanf("") : s;
      results.g_squares[first + i] = total(lanes + i * kSquareLanes);
      results.r_squares[first + i] = r_squares;
      results.n_squares[first + i] = n_squares;
    }
  }
}

void apollo_project(const LowRankBlock& b, const LowRankScalars& scalars, const RowResults& results, float* memory) {
  if (b.g16 != nullptr) return apollo_rows(b, b.g16, scalars, results, memory);
  apollo_rows(b, b.g, scalars, results, memory);
}

// strip[k][j] = P[first + j][from + k]: a transposed piece of the projection.
void load_transposed(const LowRankBlock& b, std::int64_t first, std::int64_t width, std::int64_t from, std::int64_t depth,
                     float* strip) {
  for (std::int64_t j = 0; j < width; j += Vec::kLanes) {
    const std::int64_t columns = least(Vec::kLanes, width - j);
    for (std::int64_t k = 0; k < depth; k += Vec::kLanes) {
      const std::int64_t n = least(Vec::kLanes, depth - k);
      Vec square[Vec::kLanes];
      for (std::int64_t c = 0; c < Vec::kLanes; ++c)
        square[c] = c < columns ? get(b.projection + (first + j + c) * b.rank + from + k, static_cast<int>(n)) : splat(0.0f);
      transpose(square);
      for (std::int64_t c = 0; c < n; ++c) store(square[c], strip + (k + c) * kStrip + j);
    }
  }
}

// to (rows x kStrip) = of P^T, columns [j, j + width); of: w.r or w.n. Two at once, which share the strips of P.
void project_back(const LowRankBlock& b, std::int64_t rows, std::int64_t j, std::int64_t width, const Workspace& w,
                  const float* of, float* to, const float* second = nullptr, float* to_second = nullptr) {
  for (std::int64_t k = 0; k < b.rank; k += kDepth) {
    const std::int64_t depth = least(kDepth, b.rank - k);
    load_transposed(b, j, width, k, depth, w.strip);
    multiply(rows, round_up(width, Vec::kLanes), depth, of + k, w.padded, w.strip, to, kStrip, k > 0);
    if (second != nullptr)
      multiply(rows, round_up(width, Vec::kLanes), depth, second + k, w.padded, w.strip, to_second, kStrip, k > 0);
  }
}

void put_weights(const WeightRows& weights, std::int64_t at, int n, Vec p) {
  put(p, (weights.new_p != nullptr ? weights.new_p : weights.p) + at, n);
  if (weights.p16 != nullptr) put(p, weights.p16 + at, n);
}

// Brings N, in w.r, back and moves the weights of `rows` rows from `first`.
void apply_projected(const LowRankBlock& b, const WeightRows& weights, const GaloreScalars& scalars, std::int64_t first,
                     std::int64_t rows, const Workspace& w) {
  const Vec minus_step = splat(-scalars.step_size), decay = splat(scalars.decay_factor);
  for (std::int64_t j = 0; j < b.columns; j += kStrip) {
    const std::int64_t width = least(kStrip, b.columns - j);
    project_back(b, rows, j, width, w, w.r, w.tile);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t at = (first + i) * b.columns + j;
      const float* update = w.tile + i * kStrip;
      for_each_vec(width, [&](std::int64_t c, int n) {
        put_weights(weights, at + c, n,
                    Ops::canonical(fused(minus_step, get(update + c, n), get(weights.p + at + c, n)) * decay));
      });
    }
  }
}

template <class G>
void galore_rows(const LowRankBlock& b, const G* g, const WeightRows& weights, const GaloreScalars& scalars, float* memory) {
  const MomentsRule<Ops> rule(scalars.moments);
  const Workspace w(b.rank, memory);
  for (std::int64_t first = 0; first < b.rows; first += kRows) {
    const std::int64_t rows = least(kRows, b.rows - first);
    project(b, g + first * b.columns, rows, scalars.moments.grad_scale, w, nullptr);
    for (std::int64_t i = 0; i < rows; ++i) update_moments(b, first + i, rule, false, w.r + i * w.padded, w.r + i * w.padded);
    apply_projected(b, weights, scalars, first, rows, w);
  }
}

void galore(const LowRankBlock& b, const WeightRows& weights, const GaloreScalars& scalars, float* memory) {
  if (b.g16 != nullptr) return galore_rows(b, b.g16, weights, scalars, memory);
  galore_rows(b, b.g, weights, scalars, memory);
}

// Brings the directions, in w.n, and R back and moves the weights.
template <class G>
void apply_split(const LowRankBlock& b, const G* g, const WeightRows& weights, const SubspaceScalars& scalars,
                 std::int64_t first, std::int64_t rows, const Workspace& w) {
  const SplitStep<Ops> rule(scalars);
  const Vec scale = splat(scalars.rest.grad_scale);
  float* const seen = w.tile + kRows * kStrip;
  for (std::int64_t j = 0; j < b.columns; j += kStrip) {
    const std::int64_t width = least(kStrip, b.columns - j);
    project_back(b, rows, j, width, w, w.n, w.tile, w.r, seen);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t at = (first + i) * b.columns + j;
      for_each_vec(width, [&](std::int64_t c, int n) {
        put_weights(weights, at + c, n,
                    rule.update(get(weights.p + at + c, n), load_n(g + at + c, n) * scale, get(w.tile + i * kStrip + c, n),
                                get(seen + i * kStrip + c, n)));
      });
    }
  }
}

template <class Rule, class G>
void subspace_rows(const LowRankBlock& b, const G* g, const WeightRows& weights, const SubspaceScalars& scalars,
                   float* memory) {
  const Rule rule(scalars.direction);
  const Workspace w(b.rank, memory);
  for (std::int64_t first = 0; first < b.rows; first += kRows) {
    const std::int64_t rows = least(kRows, b.rows - first);
    project(b, g + first * b.columns, rows, scalars.rest.grad_scale, w, nullptr);
    for (std::int64_t i = 0; i < rows; ++i)
      update_moments(b, first + i, rule, scalars.direction.states_are_zero, w.r + i * w.padded, w.n + i * w.padded);
    apply_split(b, g, weights, scalars, first, rows, w);
  }
}

template <class Rule>
void subspace_by(const LowRankBlock& b, const WeightRows& weights, const SubspaceScalars& scalars, float* memory) {
  if (b.g16 != nullptr) return subspace_rows<Rule>(b, b.g16, weights, scalars, memory);
  subspace_rows<Rule>(b, b.g, weights, scalars, memory);
}

void subspace(const LowRankBlock& b, const WeightRows& weights, const SubspaceScalars& scalars, float* memory) {
  switch (scalars.direction.kind) {
    case DirectionKind::adamw: return subspace_by<AdamWDirection<Ops>>(b, weights, scalars, memory);
    case DirectionKind::lion: return subspace_by<LionDirection<Ops>>(b, weights, scalars, memory);
    case DirectionKind::momentum: return subspace_by<MomentumDirection<Ops>>(b, weights, scalars, memory);
  }
}

// Rows [begin, end) of gram (columns x columns, f64) += G^T G where column >= row, each sum over the rows of G in their order.
// Products of f32 are exact in f64.
constexpr std::int64_t kGramRows = 4;
constexpr int kGramVecs = 2;

template <int kVecs>
void gram_block(const float* g, std::int64_t rows, std::int64_t columns, std::int64_t i, std::int64_t count, std::int64_t j,
                double* gram) {
  Doubles sums[kGramRows][kVecs] = {};
  for (std::int64_t a = 0; a < count; ++a) std::memcpy(sums[a], gram + (i + a) * columns + j, sizeof sums[a]);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* at = g + row * columns;
    Doubles right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = load_doubles(at + j + v * kWidth);
    for (std::int64_t a = 0; a < kGramRows; ++a) {
      const Doubles left = Doubles{} + static_cast<double>(at[a < count ? i + a : i]);
      for (int v = 0; v < kVecs; ++v) sums[a][v] += left * right[v];
    }
  }
  for (std::int64_t a = 0; a < count; ++a) std::memcpy(gram + (i + a) * columns + j, sums[a], sizeof sums[a]);
}

void add_gram(const float* g, std::int64_t rows, std::int64_t columns, std::int64_t begin, std::int64_t end, double* gram) {
  constexpr std::int64_t kWide = kGramVecs * kWidth;
  for (std::int64_t i = begin; i < end; i += kGramRows) {
    const std::int64_t count = least(kGramRows, end - i);
    std::int64_t j = i;
    for (; j + kWide <= columns; j += kWide) gram_block<kGramVecs>(g, rows, columns, i, count, j, gram);
    for (; j < columns; ++j) {
      for (std::int64_t a = 0; a < count; ++a) {
        double sum = gram[(i + a) * columns + j];
        for (std::int64_t row = 0; row < rows; ++row)
          sum += static_cast<double>(g[row * columns + i + a]) * static_cast<double>(g[row * columns + j]);
        gram[(i + a) * columns + j] = sum;
      }
    }
  }
}

}  // namespace

const LowRankKernels& low_rank_kernels() {
  static constexpr LowRankKernels kKernels = {.apollo_project = apollo_project,
                                              .galore = galore,
                                              .subspace = subspace,
                                              .add_gram = add_gram,
                                              .workspace = Workspace::size};
  return kKernels;
}

}  // namespace strata::STRATA_ISA
