// The bodies of FRUGAL's updates, one per instruction set. States lie without gaps; so the elements that have some are brought
// together by the bits of StatefulWalk, updated like those of any optimizer, and spread again.
#include <array>
#include <cstddef>
#include <cstdint>

#include "optim/frugal_kernels.h"
#include "optim/frugal_rules.h"
#include "optim/stateful_walk.h"
#include "optim/update_ops_simd.h"
#include "optim/update_rules.h"

namespace strata::STRATA_ISA {
namespace {

using V = Ops::V;
constexpr std::uint32_t kAllLanes = 0xffffffffu >> (32 - Ops::kWidth);

// spread: the first values go to the lanes of `bits`, in their order; what is in the others does not matter. collect: back.
// pick: a in the lanes of `bits`, b elsewhere.
#if defined(STRATA_ISA_avx512)
V spread(V values, std::uint32_t bits) { return _mm512_maskz_expand_ps(static_cast<__mmask16>(bits), values); }
V collect(V lanes, std::uint32_t bits) { return _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), lanes); }
V pick(std::uint32_t bits, V a, V b) { return _mm512_mask_mov_ps(b, static_cast<__mmask16>(bits), a); }
#elif defined(STRATA_ISA_avx2)
// For each pattern of 8 bits, 8 numbers of lanes as bytes.
struct Lanes {
  std::uint64_t spread[256], collect[256];
};
constexpr Lanes make_lanes() {
  Lanes lanes{};
  for (unsigned bits = 0; bits < 256; ++bits) {
    std::uint64_t rank = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      if ((bits >> lane & 1u) == 0) continue;
      lanes.spread[bits] |= rank << (8 * lane);
      lanes.collect[bits] |= std::uint64_t{lane} << (8 * rank);
      ++rank;
    }
  }
  return lanes;
}
constexpr Lanes kLanes = make_lanes();
V permuted(V values, std::uint64_t lanes) {
  return _mm256_permutevar8x32_ps(values, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(lanes))));
}
V spread(V values, std::uint32_t bits) { return permuted(values, kLanes.spread[bits]); }
V collect(V lanes, std::uint32_t bits) { return permuted(lanes, kLanes.collect[bits]); }
V pick(std::uint32_t bits, V a, V b) {
  const __m256i lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bits);
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, lane_bits)));
}
#else
V spread(V values, std::uint32_t /*bits*/) { return values; }
V collect(V lanes, std::uint32_t /*bits*/) { return lanes; }
V pick(std::uint32_t bits, V a, V b) { return bits != 0 ? a : b; }
#endif

int count(std::uint32_t bits) { return __builtin_popcount(bits); }

// Elements whose values with states are brought together at once: what is written together is out of the processor's queues
// before it is read apart, and in its first cache. (A vector's states stored by a mask just before the next ones are loaded,
// without this, took 2.2 times as long for a quarter of the columns.)
constexpr std::int64_t kBlock = 512;

template <class Rule, class G>
class Update {
 public:
  Update(const UpdateSlice& s, const G* g, const Rule& rule, const StateFree<Ops>& rest)
      : s_(s), g_(g), to_(s), rule_(rule), rest_(rest), zero_(s.states_are_zero), walk_(s.map, s.first) {}

  void run() {
    const std::int64_t n = s_.n;
    std::int64_t i = elements_to_line(s_.p16, n);
    elements(0, i);
    while (i + kChunk <= n) {
      const std::int64_t whole = n - i < kBlock ? (n - i) / kChunk * kChunk : kBlock;
      block(i, whole);
      i += whole;
    }
    elements(i, n);
    if (s_.p16 != nullptr) Ops::fence();
  }

 private:
  static constexpr int kStates = Rule::kStates;
  static constexpr std::int64_t kVectors = kChunk / Ops::kWidth;
  using Bits = std::uint32_t[kBlock / kChunk];

  // Of one vector of a chunk.
  static std::uint32_t bits_of(std::uint32_t chunk, std::int64_t vector) { return chunk >> (vector * Ops::kWidth) & kAllLanes; }

  // p and the next n states of a vector whose first n elements have some.
  V with_states(V p, V g, std::int64_t n) {
    V states[kMaxStates];
    const bool whole = n == Ops::kWidth;
    for (int k = 0; k < kStates; ++k) {
      const float* from = s_.states[k] + at_;
      states[k] = zero_ ? Ops::set1(0.0f) : whole ? Ops::load(from) : Ops::load_first(from, n);
    }
    rule_.update(p, states, g);
    for (int k = 0; k < kStates; ++k) {
      float* to = to_.states[k] + at_;
      if (whole)
        Ops::store(to, states[k]);
      else
        Ops::store_first(to, states[k], n);
    }
    at_ += n;
    return p;
  }

  void prefetch_states() {
    for (int k = 0; k < kStates; ++k) prefetch_chunk(s_.states[k] + at_ + kAhead);
  }

  // n elements, whole chunks. May ask for lines past the end of the arrays, which does no harm.
  void block(std::int64_t begin, std::int64_t n) {
    Bits bits;
    std::int64_t states = 0;
    for (std::int64_t c = 0; c < n / kChunk; ++c) {
      bits[c] = walk_.next(kChunk);
      states += count(bits[c]);
    }
    float together[kBlock + Ops::kWidth];  // p of elements with states
    if (states == n) {
      chunks(begin, n, [&](std::int64_t, std::int64_t j, V p, V g) {
        if (j == 0) prefetch_states();
        return with_states(p, g, Ops::kWidth);
      });
    } else if (states == 0) {
      chunks(begin, n, [&](std::int64_t, std::int64_t, V p, V g) {
        rest_.update(p, g);
        return p;
      });
    } else {
      update_together(begin, n, bits, states, together);
      const float* from = together;
      chunks(begin, n, [&](std::int64_t c, std::int64_t j, V p, V g) {
        const std::uint32_t lanes = bits_of(bits[c], j);
        rest_.update(p, g);
        p = pick(lanes, spread(Ops::load(from), lanes), p);
        from += count(lanes);
        return p;
      });
    }
  }

  // What becomes of the elements with states, one behind the other.
  void update_together(std::int64_t begin, std::int64_t n, const Bits& bits, std::int64_t states, float* p) {
    float g[kBlock + Ops::kWidth];
    std::int64_t to = 0;
    for (std::int64_t c = 0; c < n / kChunk; ++c) {
      for (std::int64_t j = 0; j < kVectors; ++j) {
        const std::int64_t i = begin + c * kChunk + j * Ops::kWidth;
        const std::uint32_t lanes = bits_of(bits[c], j);
        Ops::store(p + to, collect(Ops::load(s_.p + i), lanes));
        Ops::store(g + to, collect(Ops::load(g_ + i), lanes));
        to += count(lanes);
      }
    }
    for (std::int64_t i = 0; i < states; i += Ops::kWidth) {
      if (i % kChunk == 0) prefetch_states();
      const std::int64_t left = states - i;
      Ops::store(p + i, with_states(Ops::load(p + i), Ops::load(g + i), left < Ops::kWidth ? left : Ops::kWidth));
    }
  }

  // p of n elements becomes body(chunk, vector of the chunk, p, g).
  template <class Body>
  void chunks(std::int64_t begin, std::int64_t n, Body body) {
    for (std::int64_t c = 0; c < n / kChunk; ++c) {
      const std::int64_t at = begin + c * kChunk;
      prefetch_chunk(s_.p + at + kBlock + kAhead);
      prefetch_chunk(g_ + at + kBlock + kAhead);
      V p[kVectors];
      for (std::int64_t j = 0; j < kVectors; ++j) {
        const std::int64_t i = at + j * Ops::kWidth;
        p[j] = body(c, j, Ops::load(s_.p + i), Ops::load(g_ + i));
        Ops::store(to_.p + i, p[j]);
      }
      if (s_.p16 != nullptr) Ops::stream16(s_.p16 + at, p);
    }
  }

  void elements(std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += Ops::kWidth) {
      const std::int64_t n = end - i < Ops::kWidth ? end - i : Ops::kWidth;
      const std::uint32_t lanes = walk_.next(static_cast<int>(n));
      const V old = Ops::load_first(s_.p + i, n), g = Ops::load_first(g_ + i, n);
      V p = old;
      rest_.update(p, g);
      if (lanes != 0) p = pick(lanes, spread(with_states(collect(old, lanes), collect(g, lanes), count(lanes)), lanes), p);
      Ops::store_first(to_.p + i, p, n);
      if (s_.p16 != nullptr) Ops::store16_first(s_.p16 + i, p, n);
    }
  }

  const UpdateSlice s_;
  const G* g_;
  const Results<kStates> to_;
  const Rule rule_;
  const StateFree<Ops> rest_;
  const bool zero_;
  StatefulWalk<Ops> walk_;
  std::int64_t at_ = 0;  // of the next states
};

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars, const StateFreeScalars& rest) {
  const Rule rule(scalars);
  const StateFree<Ops> without(rest);
  if (s.g16 != nullptr) return Update<Rule, bf16>(s, s.g16, rule, without).run();
  Update<Rule, float>(s, s.g, rule, without).run();
}

}  // namespace

const FrugalKernels& frugal_kernels() {
  static constexpr FrugalKernels kKernels = {
      .adamw = update<AdamWRule<Ops>>, .lion = update<LionRule<Ops>>, .momentum = update<FrugalMomentumRule<Ops>>};
  return kKernels;
}

}  // namespace strata::STRATA_ISA
