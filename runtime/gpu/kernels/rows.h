// How the norms share a row between threads. A row is cut into slices of 16 bytes, and slices are dealt to the threads of a
// team. The cut follows from the row's length alone: a row at an address that is no multiple of 16 is slower, and has the same
// bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "runtime/gpu/kernels/access.h"

namespace strata::STRATA_GPU {

// Slices of a row that one thread has in registers at a time: enough loads in flight to hide memory's latency.
inline constexpr int kSlices = 4;

// Of a block that is a team: leaves each thread the registers for its slices.
inline constexpr int kMostTeamThreads = 512;

// A row of C elements as a team sees it: `slices` pieces (none: no row for this team), packed when loads of 16 bytes are
// allowed.
struct RowCut {
  std::int64_t C;
  int slices;
  bool packed;
};

template <class T>
STRATA_DEVICE RowCut cut_row(std::int64_t C, bool packed, bool exists) {
  return {C, exists ? static_cast<int>((C + Pack<T>::kCount - 1) / Pack<T>::kCount) : 0, packed};
}

// 16 bytes of a row, as stored. What lies behind the row's end reads as zero and is not written. Words, not elements: the
// compiler would give every bf16 a register of its own.
template <class T>
struct Slice {
  static constexpr int kCount = Pack<T>::kCount;
  Pack<std::uint32_t> words{};

  STRATA_DEVICE float operator[](int j) const {
    if constexpr (std::is_same_v<T, float>)
      return bits_to_float(words[j]);
    else
      return bits_to_float(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000u);
  }
  STRATA_DEVICE void set(int j, float value) {
    T stored;
    put(value, &stored);
    set_stored(j, stored);
  }
  STRATA_DEVICE void load(const T* row, const RowCut& cut, int c) {
    const std::int64_t at = std::int64_t{c} * kCount;
    if (cut.packed) {
      words = load_pack(reinterpret_cast<const std::uint32_t*>(row + at));
    } else {
      words = {};
      STRATA_UNROLL
      for (int j = 0; j < kCount; ++j)
        if (at + j < cut.C) set_stored(j, row[at + j]);
    }
  }
  STRATA_DEVICE void store(T* row, const RowCut& cut, int c) const {
    const std::int64_t at = std::int64_t{c} * kCount;
    if (cut.packed) {
      store_pack(reinterpret_cast<std::uint32_t*>(row + at), words);
    } else {
      STRATA_UNROLL
      for (int j = 0; j < kCount; ++j)
        if (at + j < cut.C) put((*this)[j], row + at + j);
    }
  }

 private:
  STRATA_DEVICE void set_stored(int j, float value) { words[j] = float_to_bits(value); }
  STRATA_DEVICE void set_stored(int j, bf16 value) {
    const std::uint32_t other = words[j / 2] & (j % 2 == 0 ? 0xffff0000u : 0xffffu);
    words[j / 2] = other | static_cast<std::uint32_t>(value.bits) << (j % 2 == 0 ? 0 : 16);
  }
};

// The slices first, first + step, ... of a row; those behind its end are zero.
template <class T>
struct Portion {
  Slice<T> slices[kSlices];

  STRATA_DEVICE void load(const T* row, const RowCut& cut, int first, int step) {
    STRATA_UNROLL
    for (int k = 0; k < kSlices; ++k)
      if (first + k * step < cut.slices) slices[k].load(row, cut, first + k * step);
  }
};

// Some lanes of a warp, a power of two: the warp has kWarp / size teams. All lanes of the warp call sum() together.
struct LaneTeam {
  static constexpr bool kIsBlock = false;
  static constexpr std::size_t kSharedBytes = 0;
  int size, rank;

  STRATA_DEVICE explicit LaneTeam(int lanes) : size(lanes), rank(lane_index() % lanes) {}
  STRATA_DEVICE int index_in_block() const { return thread_index() / size; }
  STRATA_DEVICE int teams_in_block() const { return block_threads() / size; }
  // Replaces every value by its sum over the team, the same bits in every thread.
  template <int kValues>
  STRATA_DEVICE void sum(float (&values)[kValues]) {
    for (int mask = size / 2; mask > 0; mask /= 2) {
      STRATA_UNROLL
      for (int i = 0; i < kValues; ++i) values[i] += shuffle_xor(values[i], mask);
    }
  }
};

// All threads of a block.
struct BlockTeam {
  static constexpr bool kIsBlock = true;
  static constexpr int kMostValues = 2;
  static constexpr int kMostWarps = kMostTeamThreads / kWarp;
  // Of shared memory, from offset 0.
  static constexpr std::size_t kSharedBytes = sizeof(float) * 2 * kMostWarps * kMostValues;
  int size, rank;
  int turn = 0;  // sums take turns with two halves of the memory, so that one barrier a sum is enough

  STRATA_DEVICE explicit BlockTeam(int /*lanes*/) : size(block_threads()), rank(thread_index()) {}
  STRATA_DEVICE int index_in_block() const { return 0; }
  STRATA_DEVICE int teams_in_block() const { return 1; }
  template <int kValues>
  STRATA_DEVICE void sum(float (&values)[kValues]) {
    static_assert(kValues <= kMostValues);
    constexpr int kFloats = kMostWarps * kMostValues;
    const auto of_warps = shared_array<float>(turn * kFloats * static_cast<int>(sizeof(float)), kFloats);
    turn ^= 1;
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      STRATA_UNROLL
      for (int i = 0; i < kValues; ++i) values[i] += shuffle_xor(values[i], mask);
    }
    if (lane_index() == 0) {
      STRATA_UNROLL
      for (int i = 0; i < kValues; ++i) of_warps[warp_index() * kMostValues + i] = values[i];
    }
    sync_block();
    STRATA_UNROLL
    for (int i = 0; i < kValues; ++i) {
      values[i] = 0.0f;
      for (int warp = 0; warp < size / kWarp; ++warp) values[i] += of_warps[warp * kMostValues + i];
    }
  }
};

// Which team takes a row, a function of its length. lanes and block hold the row in registers, block_loop reads it again.
enum class TeamKind { lanes, block, block_loop };
struct TeamPlan {
  TeamKind kind;
  int lanes;    // of a team of lanes
  int threads;  // of a block
  std::size_t shared_bytes;
  // Rows that a block of a forward pass takes.
  std::int64_t teams() const { return kind == TeamKind::lanes ? threads / lanes : 1; }
};

template <class T>
TeamPlan plan_team(std::int64_t C) {
  const std::int64_t slices = blocks_for(C, Pack<T>::kCount);
  if (slices <= kWarp * kSlices) {
    int lanes = 1;
    while (lanes < kWarp && lanes < slices) lanes *= 2;
    return {TeamKind::lanes, lanes, kThreads, 0};
  }
  const std::int64_t warps = blocks_for(slices, kWarp * kSlices);
  if (warps * kWarp > kMostTeamThreads) return {TeamKind::block_loop, 0, kMostTeamThreads, BlockTeam::kSharedBytes};
  return {TeamKind::block, 0, static_cast<int>(std::max<std::int64_t>(4, warps)) * kWarp, BlockTeam::kSharedBytes};
}

}  // namespace strata::STRATA_GPU
