// Attention on tensor cores: tiles of bf16 rows in shared memory, and the two products that everything is made of. A warp owns
// 16 rows of the result; its scores stay in registers, where the layout of a product's result is also the layout of the next
// product's left operand.
#pragma once

#include <type_traits>

#include "runtime/gpu/kernels/attention_shape.h"

namespace strata::STRATA_GPU {

inline constexpr int kWarpRows = 16;
inline constexpr int kTensorColumns = 256;  // the largest head that is compiled

// Two bf16 at once, as a word with the first in the low half; addresses are multiples of 4.
struct alignas(4) Bf16Pair {
  bf16 low, high;
};
STRATA_DEVICE std::uint32_t load_pair(const bf16* from) {
  const Bf16Pair pair = *reinterpret_cast<const Bf16Pair*>(from);
  return pair.low.bits | static_cast<std::uint32_t>(pair.high.bits) << 16;
}
STRATA_DEVICE void store_pair(bf16* to, std::uint32_t word) {
  *reinterpret_cast<Bf16Pair*>(to) = {{static_cast<std::uint16_t>(word)}, {static_cast<std::uint16_t>(word >> 16)}};
}

// kStages tiles of kRows x kColumns, a head's rows with zeros where rows or columns do not exist. The eight rows of an 8 x 8
// matrix must lie in different banks. Rows are therefore an odd number of 16-byte chunks apart: then places differ from each
// other by constants, which cost no registers. The widest tiles have no room for that and exchange chunks inside a row.
template <int kRowCount, int kColumnCount, int kStages = 1>
struct SharedTile {
  static constexpr int kRows = kRowCount, kColumns = kColumnCount, kSteps = kColumns / 16, kChunks = kColumns / 8;
  static constexpr bool kExchanges = kColumns > 128;
  static constexpr int kStride = kExchanges ? kColumns : kColumns + 8, kElements = kRows * kStride;
  static constexpr int kBytes = kStages * kElements * static_cast<int>(sizeof(bf16));
  static_assert(kRows % 16 == 0 && kColumns % (kExchanges ? 64 : 16) == 0);

  SharedArray<bf16> elements;
  STRATA_DEVICE explicit SharedTile(int byte_offset) : elements(shared_array<bf16>(byte_offset, kStages * kElements)) {}

  // Of a chunk, inside a stage.
  STRATA_DEVICE static int place(int row, int chunk) { return row * kStride + (kExchanges ? chunk ^ (row & 7) : chunk) * 8; }

  // Every thread of the block takes part; the caller commits and waits. A thread keeps to one chunk of every kPass-th row.
  template <int kThreads>
  STRATA_DEVICE void start_copy(int stage, const HeadRows<const bf16>& rows, int H) const {
    constexpr int kPass = kThreads / kChunks;
    const int first = thread_index() / kChunks, chunk = thread_index() % kChunks;
    if (first >= kPass) return;
    STRATA_UNROLL
    for (int above = 0; above < kRows; above += kPass) {
      const int row = first + above;
      if (kRows % kPass != 0 && row >= kRows) break;
      const bool exists = row < rows.count && chunk * 8 < H;
      copy_async(elements, stage * kElements + place(row, chunk), rows.data + (exists ? row * rows.stride + chunk * 8 : 0),
                 exists);
    }
  }

  // The 16 x 16 elements at (row, 16 * step): a left operand, or the right operands of two products whose columns are the
  // tile's rows, r[0], r[2] and r[1], r[3].
  STRATA_DEVICE void load(std::uint32_t (&r)[4], int stage, int row, int step) const {
    load_matrices(r, elements, at(stage, row, step));
  }
  // The right operands of two products whose columns are the tile's columns: r[0], r[1] and r[2], r[3].
  STRATA_DEVICE void load_transposed(std::uint32_t (&r)[4], int stage, int row, int step) const {
    load_matrices_transposed(r, elements, at(stage, row, step));
  }

 private:
  STRATA_DEVICE static int at(int stage, int row, int step) {
    return stage * kElements + row * kStride + place(lane_index() % 16, 2 * step + lane_index() / 16);
  }
};

// The rows that a warp owns, as left operands: kept in registers,
template <int kColumns>
struct RegisterRows {
  static constexpr int kSharedBytes = 0;
  std::uint32_t words[kColumns / 16][4];

  // Reads the warp's 16 rows of the block's rows. (No wait is needed.)
  template <int kThreads>
  STRATA_DEVICE static RegisterRows start(int /*byte_offset*/, const HeadRows<const bf16>& block, int H) {
    const HeadRows<const bf16> rows = block.from(warp_index() * kWarpRows);
    const int g = lane_index() / 4, t = lane_index() % 4;
    RegisterRows result;
    STRATA_UNROLL
    for (int step = 0; step < kColumns / 16; ++step) {
      STRATA_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int row = g + k % 2 * 8, column = step * 16 + k / 2 * 8 + 2 * t;
        result.words[step][k] = row < rows.count && column < H ? load_pair(rows.data + row * rows.stride + column) : 0u;
      }
    }
    return result;
  }
  STRATA_DEVICE void load(std::uint32_t (&a)[4], int step) const {
    STRATA_UNROLL
    for (int k = 0; k < 4; ++k) a[k] = words[step][k];
  }
};

// or in shared memory, read at each use: where registers are short.
template <int kBlockRows, int kColumns>
struct SharedRows {
  using Tile = SharedTile<kBlockRows, kColumns>;
  static constexpr int kSharedBytes = Tile::kBytes;
  Tile tile;

  // Copies the block's rows asynchronously; the caller commits and waits.
  template <int kThreads>
  STRATA_DEVICE static SharedRows start(int byte_offset, const HeadRows<const bf16>& block, int H) {
    const SharedRows result = {Tile(byte_offset)};
    result.tile.template start_copy<kThreads>(0, block, H);
    return result;
  }
  STRATA_DEVICE void load(std::uint32_t (&a)[4], int step) const { tile.load(a, 0, warp_index() * kWarpRows, step); }
};

// A warp's part of a product: 16 rows, as mma lays them out. Row of values[n][e]: lane / 4 + 8 * (e / 2); column: see column().
template <int kColumns>
struct Accumulator {
  float values[kColumns / 8][4];

  STRATA_DEVICE void clear() {
    STRATA_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      STRATA_UNROLL
      for (int e = 0; e < 4; ++e) values[n][e] = 0.0f;
    }
  }
  STRATA_DEVICE static int column(int n, int e) { return 8 * n + 2 * (lane_index() % 4) + e % 2; }

  // Rows of `to` from its column `first`, multiplied by factor[0] (the first 8 rows) or factor[1].
  STRATA_DEVICE void store(const HeadRows<bf16>& to, const float (&factor)[2], int first, int H) const {
    STRATA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = lane_index() / 4 + 8 * half;
      if (row >= to.count) continue;
      bf16* out = to.data + row * to.stride;
      STRATA_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        const int at = first + column(n, 0);
        if (at < H) store_pair(out + at, pack_bf16(values[n][2 * half] * factor[half], values[n][2 * half + 1] * factor[half]));
      }
    }
  }
};

// scores = rows tile^T
template <class Rows, class Tile>
STRATA_DEVICE void multiply_transposed(Accumulator<Tile::kRows>& scores, const Rows& rows, const Tile& tile, int stage) {
  scores.clear();
  STRATA_UNROLL
  for (int step = 0; step < Tile::kSteps; ++step) {
    std::uint32_t a[4];
    rows.load(a, step);
    STRATA_UNROLL
    for (int n = 0; n < Tile::kRows / 16; ++n) {
      std::uint32_t r[4];
      tile.load(r, stage, 16 * n, step);
      mma_16x8x16(scores.values[2 * n], a, {r[0], r[2]});
      mma_16x8x16(scores.values[2 * n + 1], a, {r[1], r[3]});
    }
  }
}

// out += weights tile, of the tile's columns from 16 * first_step; weights are rounded to bf16.
template <int kColumns, class Tile>
STRATA_DEVICE void multiply_add(Accumulator<kColumns>& out, const Accumulator<Tile::kRows>& weights, const Tile& tile,
                                int stage, int first_step = 0) {
  STRATA_UNROLL
  for (int k = 0; k < Tile::kRows / 16; ++k) {
    std::uint32_t a[4];
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&w)[4] = weights.values[2 * k + i / 2];
      a[i] = pack_bf16(w[i % 2 * 2], w[i % 2 * 2 + 1]);
    }
    STRATA_UNROLL
    for (int n = 0; n < kColumns / 16; ++n) {
      std::uint32_t r[4];
      tile.load_transposed(r, stage, 16 * k, first_step + n);
      mma_16x8x16(out.values[2 * n], a, {r[0], r[1]});
      mma_16x8x16(out.values[2 * n + 1], a, {r[2], r[3]});
    }
  }
}

// Calls body.template operator()<kColumns>() with the smallest size of a head that is compiled and holds H <= 256.
template <class Body>
void with_columns(std::int64_t H, Body body) {
  if (H <= 64)
    body.template operator()<64>();
  else if (H <= 80)
    body.template operator()<80>();
  else if (H <= 96)
    body.template operator()<96>();
  else if (H <= 128)
    body.template operator()<128>();
  else
    body.template operator()<256>();
}

}  // namespace strata::STRATA_GPU
