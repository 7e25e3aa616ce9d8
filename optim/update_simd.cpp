// The bodies of the element-wise updates, one per instruction set. Everything used here is local to the translation unit or a
// template over its Ops, so that no function compiled for AVX-512 can be linked into code for an older processor.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "optim/late_decay_rules.h"
#include "optim/state_codes_simd.h"
#include "optim/state_noise_simd.h"
#include "optim/update_kernels.h"
#include "optim/update_ops_simd.h"
#include "optim/update_rules.h"

namespace strata::STRATA_ISA {
namespace {

// How a rule's states are read and written. begin(at): comes before elements [at, at + kChunk).
template <int kStates>
class F32States {
 public:
  explicit F32States(const UpdateSlice& s) : from_(s.states), to_(s.new_p != nullptr ? s.new_states : s.states) {}
  void begin(std::int64_t) {}
  void prefetch(int k, std::int64_t i) const { prefetch_chunk(from_[k] + i); }
  Ops::V load(int k, std::int64_t i) const { return Ops::load(from_[k] + i); }
  void store(int k, std::int64_t i, Ops::V a) const { Ops::store(to_[k] + i, a); }
  Ops::V load_first(int k, std::int64_t i, std::int64_t n) const { return Ops::load_first(from_[k] + i, n); }
  void store_first(int k, std::int64_t i, Ops::V a, std::int64_t n) const { Ops::store_first(to_[k] + i, a, n); }

 private:
  std::array<float*, kMaxStates> from_, to_;
};

template <int kStates>
class Bf16States {
 public:
  Bf16States(const UpdateSlice& s, const StateNoise& noise) : noise_(noise) {
    const auto& results = s.new_p != nullptr ? s.new_packed : s.packed;
    for (std::size_t k = 0; k < std::size_t{kStates}; ++k)
      from_[k] = reinterpret_cast<const bf16*>(s.packed[k]), to_[k] = reinterpret_cast<bf16*>(results[k]);
  }
  void begin(std::int64_t at) { noise_at_ = drawn_.draw(noise_, at) - at; }
  void prefetch(int k, std::int64_t i) const { prefetch_chunk(from_[k] + i); }
  Ops::V load(int k, std::int64_t i) const { return Ops::load(from_[k] + i); }
  void store(int k, std::int64_t i, Ops::V a) const { store_rounded(to_[k] + i, a, noise_at_ + i, k); }
  Ops::V load_first(int k, std::int64_t i, std::int64_t n) const { return Ops::load_first(from_[k] + i, n); }
  void store_first(int k, std::int64_t i, Ops::V a, std::int64_t n) const {
    store_rounded_first(to_[k] + i, a, noise_at_ + i, k, n);
  }

 private:
  const bf16* from_[kStates];
  bf16* to_[kStates];
  StateNoise noise_;
  NoiseWords drawn_;
  const std::uint32_t* noise_at_ = nullptr;  // word of the slice's element 0, if it were drawn
};

// May ask for lines past the end of the arrays, which does no harm.
template <class Rule, class G, class States>
void chunk(const UpdateSlice& s, float* to, States& states, const G* g, std::int64_t at, const Rule& rule) {
  constexpr std::int64_t kVectors = kChunk / Ops::kWidth;
  prefetch_chunk(s.p + at + kAhead);
  for (int k = 0; k < Rule::kStates; ++k) states.prefetch(k, at + kAhead);
  prefetch_chunk(g + at + kAhead);
  states.begin(at);
  Ops::V p[kVectors];
  for (std::int64_t j = 0; j < kVectors; ++j) {
    const std::int64_t i = at + j * Ops::kWidth;
    p[j] = Ops::load(s.p + i);
    Ops::V values[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states.load(k, i);
    rule.update(p[j], values, Ops::load(g + i));
    Ops::store(to + i, p[j]);
    for (int k = 0; k < Rule::kStates; ++k) states.store(k, i, values[k]);
  }
  if (s.p16 != nullptr) Ops::stream16(s.p16 + at, p);
}

template <class Rule, class G, class States>
void elements(const UpdateSlice& s, float* to, States& states, const G* g, std::int64_t begin, std::int64_t end,
              const Rule& rule) {
  for (std::int64_t i = begin; i < end; i += Ops::kWidth) {
    const std::int64_t n = end - i < Ops::kWidth ? end - i : Ops::kWidth;
    if ((i - begin) % kChunk == 0) states.begin(i);
    Ops::V p = Ops::load_first(s.p + i, n);
    Ops::V values[kMaxStates];
    for (int k = 0; k < Rule::kStates; ++k) values[k] = states.load_first(k, i, n);
    rule.update(p, values, Ops::load_first(g + i, n));
    Ops::store_first(to + i, p, n);
    for (int k = 0; k < Rule::kStates; ++k) states.store_first(k, i, values[k], n);
    if (s.p16 != nullptr) Ops::store16_first(s.p16 + i, p, n);
  }
}

template <class Rule, class G, class States>
void update_from(const UpdateSlice& s, States& states, const G* g, const Rule& rule) {
  float* const to = s.new_p != nullptr ? s.new_p : s.p;
  std::int64_t i = elements_to_line(s.p16, s.n);
  elements(s, to, states, g, 0, i, rule);
  for (; i + kChunk <= s.n; i += kChunk) chunk(s, to, states, g, i, rule);
  elements(s, to, states, g, i, s.n, rule);
  if (s.p16 != nullptr) Ops::fence();
}

template <class Rule, class States>
void update_states(const UpdateSlice& s, const typename Rule::Scalars& scalars, States states) {
  const Rule rule(scalars);
  if (s.g16 != nullptr) return update_from(s, states, s.g16, rule);
  update_from(s, states, s.g, rule);
}

template <class Rule>
void update(const UpdateSlice& s, const typename Rule::Scalars& scalars) {
  update_states<Rule>(s, scalars, F32States<Rule::kStates>(s));
}

template <class Rule>
void update_bf16(const UpdateSlice& s, const typename Rule::Scalars& scalars, const StateNoise& noise) {
  update_states<Rule>(s, scalars, Bf16States<Rule::kStates>(s, noise));
}

// A block of 8-bit states; the first of them is signed, the second one not.
constexpr std::int64_t kCodes = kEightBitStates.block;

// Of a whole block. new_states: they may be the states.
template <class Rule, class G>
void code_block(const float* p, const std::uint8_t* const* states, const G* g, float* new_p, std::uint8_t* const* new_states,
                bf16* p16, const Rule& rule) {
  static_assert(Rule::kStates == 2);
  const StateCodes& first = signed_codes();
  const StateCodes& second = unsigned_codes();
  float largest_before[2];
  for (int k = 0; k < 2; ++k) std::memcpy(&largest_before[k], states[k] + kCodes, sizeof(float));
  const Ops::V scale0 = Ops::set1(largest_before[0]), scale1 = Ops::set1(largest_before[1]);
  alignas(kLine) float values[2][kCodes];
  Bits largest0 = no_bits(), largest1 = no_bits();
  const bool streams = reinterpret_cast<std::uintptr_t>(p16) % kLine == 0;
  for (std::int64_t at = 0; at < kCodes; at += kChunk) {
    prefetch_chunk(p + at + kAhead);
    prefetch_chunk(g + at + kAhead);
    constexpr std::int64_t kVectors = kChunk / Ops::kWidth;
    Ops::V updated[kVectors];
    for (std::int64_t j = 0; j < kVectors; ++j) {
      const std::int64_t i = at + j * Ops::kWidth;
      updated[j] = Ops::load(p + i);
      Ops::V of[2] = {Ops::mul(decode(states[0] + i, first), scale0), Ops::mul(decode(states[1] + i, second), scale1)};
      rule.update(updated[j], of, Ops::load(g + i));
      Ops::store(new_p + i, updated[j]);
      largest0 = largest(largest0, of[0]);
      largest1 = largest(largest1, of[1]);
      Ops::store(values[0] + i, of[0]);
      Ops::store(values[1] + i, of[1]);
      if (p16 != nullptr && !streams) Ops::store16_first(p16 + i, updated[j], Ops::kWidth);
    }
    if (p16 != nullptr && streams) Ops::stream16(p16 + at, updated);
  }
  const std::uint32_t after[2] = {largest_of(largest0), largest_of(largest1)};
  const auto scale_of = [](std::uint32_t largest) {
    return Ops::set1(CodeRule<Ops>::scale(1.0f / __builtin_bit_cast(float, largest)));
  };
  const Ops::V to_codes0 = scale_of(after[0]), to_codes1 = scale_of(after[1]);
  for (std::int64_t i = 0; i < kCodes; i += Ops::kWidth) {
    encode<true>(new_states[0] + i, Ops::mul(Ops::load(values[0] + i), to_codes0), first);
    encode<false>(new_states[1] + i, Ops::mul(Ops::load(values[1] + i), to_codes1), second);
  }
  for (int k = 0; k < 2; ++k) {
    const std::uint32_t stored = CodeRule<Ops>::stored_largest(after[k]);
    std::memcpy(new_states[k] + kCodes, &stored, sizeof stored);
  }
}

// Of the last block of a parameter, which has n elements: the same with zeros behind them.
template <class Rule, class G>
void code_last_block(const float* p, const std::uint8_t* const* states, const G* g, std::int64_t n, float* new_p,
                     std::uint8_t* const* new_states, bf16* p16, const Rule& rule) {
  const auto count = static_cast<std::size_t>(n);
  float all_p[kCodes + kAhead] = {};
  G all_g[kCodes + kAhead] = {};
  bf16 all_p16[kCodes];
  std::uint8_t all[2][kEightBitStates.block_bytes];
  std::uint8_t* const blocks[2] = {all[0], all[1]};
  std::memcpy(all_p, p, count * sizeof(float));
  std::memcpy(all_g, g, count * sizeof(G));
  for (int k = 0; k < 2; ++k) {
    std::memset(all[k], k == 0 ? StateCodes::kSignedZero : 0, kCodes);
    std::memcpy(all[k], states[k], count);
    std::memcpy(all[k] + kCodes, states[k] + kCodes, sizeof(float));
  }
  code_block<Rule, G>(all_p, blocks, all_g, all_p, blocks, p16 == nullptr ? nullptr : all_p16, rule);
  std::memcpy(new_p, all_p, count * sizeof(float));
  if (p16 != nullptr) std::memcpy(p16, all_p16, count * sizeof(bf16));
  for (int k = 0; k < 2; ++k) {
    std::memcpy(new_states[k], all[k], count);
    std::memcpy(new_states[k] + kCodes, all[k] + kCodes, sizeof(float));
  }
}

template <class Rule, class G>
void update_coded(const UpdateSlice& s, const G* g, const Rule& rule) {
  const bool elsewhere = s.new_p != nullptr;
  for (std::int64_t at = 0; at < s.n; at += kCodes) {
    const std::int64_t place = at / kCodes * kEightBitStates.block_bytes;
    const std::uint8_t* states[2];
    std::uint8_t* new_states[2];
    for (std::size_t k = 0; k < 2; ++k) {
      states[k] = reinterpret_cast<const std::uint8_t*>(s.packed[k] + place);
      new_states[k] = reinterpret_cast<std::uint8_t*>((elsewhere ? s.new_packed : s.packed)[k] + place);
    }
    float* const new_p = (elsewhere ? s.new_p : s.p) + at;
    bf16* const p16 = s.p16 == nullptr ? nullptr : s.p16 + at;
    if (s.n - at >= kCodes)
      code_block<Rule, G>(s.p + at, states, g + at, new_p, new_states, p16, rule);
    else
      code_last_block<Rule, G>(s.p + at, states, g + at, s.n - at, new_p, new_states, p16, rule);
  }
  if (s.p16 != nullptr) Ops::fence();
}

template <class Rule>
void update_8bit(const UpdateSlice& s, const typename Rule::Scalars& scalars) {
  const Rule rule(scalars);
  if (s.g16 != nullptr) return update_coded(s, s.g16, rule);
  update_coded(s, s.g, rule);
}

}  // namespace

const UpdateKernels& update_kernels() {
  static constexpr UpdateKernels kKernels = {.adamw = update<AdamWRule<Ops>>,
                                             .adamw_transformers = update<TransformersAdamWRule<Ops>>,
                                             .lion = update<LionRule<Ops>>,
                                             .sgd = update<SgdRule<Ops>>,
                                             .momentum = update<MomentumRule<Ops>>,
                                             .nesterov = update<NesterovRule<Ops>>,
                                             .scaled_gradient = update<ScaledGradientRule<Ops>>,
                                             .bf16_states = {.adamw = update_bf16<AdamWRule<Ops>>,
                                                             .lion = update_bf16<LionRule<Ops>>,
                                                             .momentum = update_bf16<MomentumRule<Ops>>,
                                                             .nesterov = update_bf16<NesterovRule<Ops>>},
                                             .adamw_8bit = update_8bit<AdamWRule<Ops>>};
  return kKernels;
}

}  // namespace strata::STRATA_ISA
