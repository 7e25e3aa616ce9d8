// Updates of 8-bit states on a GPU: the bits of update_simd.cpp. A warp has a block of states at once, a lane 8 elements of it.
#include <bit>

#include "optim/gpu/update_ops.h"
#include "optim/gpu/updates_8bit.h"
#include "optim/state_codes_map.h"
#include "optim/state_codes_rules.h"
#include "optim/update_rules.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

constexpr int kCodes = kEightBitStates.block;
constexpr int kBlockWords = kEightBitStates.block_bytes / 4;  // codes, then the largest magnitude
constexpr int kLargest = kBlockWords - 1;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTurns = 4;  // blocks of states that a warp has one after another, for each of which the maps need not be loaded
static_assert(kCodes == kWarp * kUnit);

// A map's values, thresholds and cells as words.
constexpr int kThresholds = 256, kBelow = 512;
constexpr int kMapWords = (kBelow + (StateCodes::kCells + 3) / 4 + 3) / 4 * 4;
constexpr int kMapBytes = kMapWords * 4;
struct MapWords {
  alignas(16) std::uint32_t words[kMapWords];
};
constexpr MapWords words_of(const StateCodes& codes) {
  MapWords map = {};
  for (int i = 0; i < 256; ++i) {
    map.words[i] = std::bit_cast<std::uint32_t>(codes.values[i]);
    map.words[kThresholds + i] = codes.thresholds[i];
  }
  for (int cell = 0; cell < StateCodes::kCells; ++cell)
    map.words[kBelow + cell / 4] |= std::uint32_t{codes.below[cell]} << cell % 4 * 8;
  return map;
}

// Static: else every thread makes the table on its stack.
template <bool kSigned>
STRATA_DEVICE const std::uint32_t* map_words() {
  static constexpr MapWords kMap = words_of(make_state_codes(kSigned));
  return kMap.words;
}

struct Below {
  SharedArray<std::uint32_t> words;
  STRATA_DEVICE int operator[](int cell) const {
    const std::uint32_t word = words[kBelow + cell / 4];
    return static_cast<int>(word >> cell % 4 * 8 & 0xffu);
  }
};
struct Thresholds {
  SharedArray<std::uint32_t> words;
  STRATA_DEVICE std::uint32_t operator[](int i) const { return words[kThresholds + i]; }
};

// A map in shared memory, for indices that differ from thread to thread.
template <bool kSigned>
class Map {
 public:
  STRATA_DEVICE Map() : words_(shared_array<std::uint32_t>(kSigned ? 0 : kMapBytes, kMapWords)) {}
  STRATA_DEVICE void load() const {
    constexpr int kPack = Pack<std::uint32_t>::kCount;
    for (int i = thread_index() * kPack; i < kMapWords; i += kThreads * kPack)
      store_pack(words_, i, load_pack(map_words<kSigned>() + i));
  }

  // A lane's states of the warp's block; those of elements outside the range are 0.
  STRATA_DEVICE void decode(const std::uint32_t* block, const Unit& unit, float (&states)[kUnit]) const {
    const float largest = bits_to_float(block[kLargest]);
    const std::uint32_t packed[2] = {block[2 * lane_index()], block[2 * lane_index() + 1]};
    STRATA_UNROLL
    for (int i = 0; i < kUnit; ++i) {
      const int code = static_cast<int>(packed[i / 4] >> i % 4 * 8 & 0xffu);
      const float value = bits_to_float(words_[unit.contains(i) ? code : kZero]);
      states[i] = Ops::mul(value, largest);
    }
  }

  STRATA_DEVICE void encode(const float (&states)[kUnit], std::uint32_t* block, const Unit& unit) const {
    std::uint32_t largest = 0;
    STRATA_UNROLL
    for (int i = 0; i < kUnit; ++i) {
      const std::uint32_t magnitude = float_to_bits(states[i]) & 0x7fffffffu;  // as integers, of which NaN is the largest
      largest = magnitude > largest ? magnitude : largest;
    }
    STRATA_UNROLL
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const std::uint32_t other = shuffle_xor(largest, mask);
      largest = other > largest ? other : largest;
    }
    const float scale = CodeRule<Ops>::scale(div_rn(1.0f, bits_to_float(largest)));
    std::uint32_t packed[2] = {};
    STRATA_UNROLL
    for (int i = 0; i < kUnit; ++i) {
      const std::uint32_t product = float_to_bits(Ops::mul(states[i], scale));
      const int code = CodeRule<Ops>::template code<kSigned>(product, Below{words_}, Thresholds{words_});
      packed[i / 4] |= static_cast<std::uint32_t>(code) << i % 4 * 8;
    }
    sync_warp();  // every lane has read the block
    STRATA_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::uint32_t* const to = block + 2 * lane_index() + half;
      if (unit.contains(4 * half + 3)) {
        *to = packed[half];
      } else {
        for (int i = 0; i < 4; ++i)
          if (unit.contains(4 * half + i))
            reinterpret_cast<std::uint8_t*>(to)[i] = static_cast<std::uint8_t>(packed[half] >> i * 8);
      }
    }
    if (lane_index() == 0) block[kLargest] = CodeRule<Ops>::stored_largest(largest);
  }

 private:
  static constexpr int kZero = kSigned ? StateCodes::kSignedZero : 0;
  SharedArray<std::uint32_t> words_;
};

STRATA_DEVICE std::uint32_t* block_at(std::byte* states, std::int64_t block) {
  return reinterpret_cast<std::uint32_t*>(states) + block * kBlockWords;
}

// The first of the rule's two states is signed, the second one not. aligned: p and its like, to 16 bytes.
template <class Rule, class G>
STRATA_KERNEL code_kernel(UpdateSlice s, const G* gradient, bool aligned, Rule rule) {
  static_assert(Rule::kStates == 2);
  const Map<true> first;
  const Map<false> second;
  first.load();
  second.load();
  sync_block();
  for (int turn = 0; turn < kTurns; ++turn) {
    const std::int64_t block = (block_x() * kTurns + turn) * kWarps + warp_index();
    if (block * kCodes >= s.n) return;
    const std::int64_t at = block * kCodes + lane_index() * kUnit;
    const Unit unit = {at, s.n, aligned && at + kUnit <= s.n};
    float p[kUnit], m[kUnit], v[kUnit], g[kUnit];
    load_unit(s.p, unit, 0.0f, p);
    load_unit(gradient, unit, 0.0f, g);
    first.decode(block_at(s.packed[0], block), unit, m);
    second.decode(block_at(s.packed[1], block), unit, v);
    STRATA_UNROLL
    for (int i = 0; i < kUnit; ++i) {
      float states[2] = {m[i], v[i]};
      rule.update(p[i], states, g[i]);
      m[i] = states[0], v[i] = states[1];
    }
    store_unit(p, s.new_p, unit);
    if (s.p16 != nullptr) store_unit(p, s.p16, unit);
    first.encode(m, block_at(s.new_packed[0], block), unit);
    second.encode(v, block_at(s.new_packed[1], block), unit);
  }
}

template <class Rule, class G>
void update_from(UpdateSlice s, const G* g, const Rule& rule, GpuQueue& queue) {
  if (s.new_p == nullptr) s.new_p = s.p, s.new_packed = s.packed;
  for (const std::byte* states : {s.packed[0], s.packed[1], s.new_packed[0], s.new_packed[1]})
    STRATA_CHECK(reinterpret_cast<std::uintptr_t>(states) % 4 == 0, "8-bit states are words");
  const int phase = s.p16 == nullptr ? common_phase(s.p, s.new_p, g) : common_phase(s.p, s.new_p, g, s.p16);
  const Grid grid = {.x = blocks_for(s.n, std::int64_t{kCodes} * kWarps * kTurns)};
  launch(queue, code_kernel<Rule, G>, grid, kThreads, 2 * kMapBytes, s, g, phase == 0, rule);
}

}  // namespace

void adamw_8bit(const UpdateSlice& s, const AdamWScalars& scalars, GpuQueue& queue) {
  const AdamWRule<Ops> rule(scalars);
  if (s.g16 != nullptr) return update_from(s, s.g16, rule, queue);
  update_from(s, s.g, rule, queue);
}

}  // namespace strata::STRATA_GPU
