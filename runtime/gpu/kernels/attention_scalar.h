// Attention on the scalar units, in f32: any size of a head, any alignment, f32 and bf16. A block of 16 x 16 threads owns a
// tile of 64 rows and, of its results, a slice of 128 columns; wider heads are shared by blocks that repeat the scores. Thread
// (y, x) holds of every 64 x 64 tile the elements (y + 16 i, x + 16 j), i, j < 4.
#pragma once

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/attention_shape.h"

namespace strata::STRATA_GPU {

inline constexpr int kTileRows = 64;
inline constexpr int kSlice = 128;        // columns of a result that a block computes
inline constexpr int kInnerColumns = 32;  // of a head, in shared memory at a time while scores are summed

STRATA_DEVICE int thread_y() { return thread_index() / 16; }
STRATA_DEVICE int thread_x() { return thread_index() % 16; }

// What a thread holds of a 64 x 64 tile, and of the block's result.
struct TilePart {
  float values[4][4];
};
struct SlicePart {
  float values[4][2][4];  // columns 64 j + 4 x + c of the slice
  STRATA_DEVICE void clear() {
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      STRATA_UNROLL
      for (int j = 0; j < 2; ++j) {
        STRATA_UNROLL
        for (int c = 0; c < 4; ++c) values[i][j][c] = 0.0f;
      }
    }
  }
  // Rows of `to`, multiplied by factor[i]; the slice begins at its column `first`.
  template <class Element>
  STRATA_DEVICE void store(const HeadRows<Element>& to, const float (&factor)[4], int first, int H) const {
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = thread_y() + 16 * i;
      STRATA_UNROLL
      for (int j = 0; j < 2; ++j) {
        STRATA_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int column = first + 64 * j + 4 * thread_x() + c;
          if (row < to.count && column < H) put(values[i][j][c] * factor[i], to.data + row * to.stride + column);
        }
      }
    }
  }
};

// The block's shared memory. Rows of the tiles that are read across rows are 16 bytes longer than their elements, so that the
// rows that a warp reads at once lie in different banks.
class ScalarTiles {
 public:
  STRATA_DEVICE ScalarTiles()
      : left_(shared_array<float>(0, kInner)),
        right_(shared_array<float>(kInner * 4, kInner)),
        weights_(shared_array<float>(2 * kInner * 4, kTileRows * kWeightStride)),
        rows_(shared_array<float>((2 * kInner + kTileRows * kWeightStride) * 4, kTileRows * kSlice)) {}

  // scores = left right^T, rows that do not exist being zero.
  template <class Element>
  STRATA_DEVICE void multiply_transposed(TilePart& scores, const HeadRows<const Element>& left,
                                         const HeadRows<const Element>& right, int H) const {
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j) scores.values[i][j] = 0.0f;
    }
    for (int h = 0; h < H; h += kInnerColumns) {
      sync_block();  // nobody reads the columns before these any more
      load<kInnerColumns, kInnerStride>(left_, left, h, H);
      load<kInnerColumns, kInnerStride>(right_, right, h, H);
      sync_block();
      for (int k = 0; k < kInnerColumns; k += 4) {
        Pack<float> a[4], b[4];
        STRATA_UNROLL
        for (int i = 0; i < 4; ++i) {
          a[i] = load_pack(left_, (thread_y() + 16 * i) * kInnerStride + k);
          b[i] = load_pack(right_, (thread_x() + 16 * i) * kInnerStride + k);
        }
        STRATA_UNROLL
        for (int i = 0; i < 4; ++i) {
          STRATA_UNROLL
          for (int j = 0; j < 4; ++j) {
            STRATA_UNROLL
            for (int c = 0; c < 4; ++c) scores.values[i][j] += a[i][c] * b[j][c];
          }
        }
      }
    }
  }

  // out += weights rows, of the slice that begins at column `first`.
  template <class Element>
  STRATA_DEVICE void multiply_add(SlicePart& out, const TilePart& weights, const HeadRows<const Element>& rows, int first,
                                  int H) const {
    sync_block();  // nobody reads the weights and rows before these any more
    STRATA_UNROLL
    for (int i = 0; i < 4; ++i) {
      STRATA_UNROLL
      for (int j = 0; j < 4; ++j) weights_[(thread_y() + 16 * i) * kWeightStride + thread_x() + 16 * j] = weights.values[i][j];
    }
    load<kSlice, kSlice>(rows_, rows, first, H);
    sync_block();
    for (int k = 0; k < kTileRows; k += 4) {
      Pack<float> w[4];
      STRATA_UNROLL
      for (int i = 0; i < 4; ++i) w[i] = load_pack(weights_, (thread_y() + 16 * i) * kWeightStride + k);
      STRATA_UNROLL
      for (int c = 0; c < 4; ++c) {
        STRATA_UNROLL
        for (int j = 0; j < 2; ++j) {
          if (first + 64 * j >= H) break;
          const Pack<float> v = load_pack(rows_, (k + c) * kSlice + 64 * j + 4 * thread_x());
          STRATA_UNROLL
          for (int i = 0; i < 4; ++i) {
            STRATA_UNROLL
            for (int e = 0; e < 4; ++e) out.values[i][j][e] += w[i][c] * v[e];
          }
        }
      }
    }
  }

  static constexpr int bytes() { return (2 * kInner + kTileRows * (kWeightStride + kSlice)) * 4; }

 private:
  static constexpr int kInnerStride = kInnerColumns + 4, kWeightStride = kTileRows + 4, kInner = kTileRows * kInnerStride;

  // 64 rows of kColumns elements from column `first`; zeros where there are none.
  template <int kColumns, int kStride, class Element>
  STRATA_DEVICE static void load(const SharedArray<float>& to, const HeadRows<const Element>& rows, int first, int H) {
    for (int i = thread_index(); i < kTileRows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = i % kColumns;
      const bool exists = row < rows.count && first + column < H;
      to[row * kStride + column] = exists ? get(rows.data + row * rows.stride + first + column) : 0.0f;
    }
  }

  SharedArray<float> left_, right_, weights_, rows_;
};
static_assert(kThreads == 16 * 16);

}  // namespace strata::STRATA_GPU
