// How tiles of queries and keys are laid out for tile_product.h. For files named *_simd.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/kernels/attention_table.h"
#include "runtime/kernels/tile_product.h"

namespace strata::STRATA_ISA {

inline constexpr std::int64_t kTile = kernels::kAttentionTile;

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Hands out parts of a thread's scratch; with a null base it only counts.
class Scratch {
 public:
  explicit Scratch(std::byte* base) : base_(base) {}
  float* take(std::int64_t words) {
    const std::size_t at = used_;
    used_ += static_cast<std::size_t>(round_up(words * 4, 64));
    return base_ == nullptr ? nullptr : reinterpret_cast<float*>(base_ + at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

// Rows of one head: row r starts at data + r * stride.
template <class T>
struct HeadRows {
  const T* data;
  std::int64_t stride;
  std::int64_t count;
  const T* row(std::int64_t r) const { return data + r * stride; }
};

// pairs[h] = (low[h], high[h]), two bf16 in a word; a null high is zero.
inline void pair_rows(const bf16* low, const bf16* high, std::int64_t H, float* pairs) {
  for (std::int64_t h = 0; h < H; ++h) {
    const std::uint32_t top = high == nullptr ? 0u : high[h].bits;
    const std::uint32_t pair = static_cast<std::uint32_t>(low[h].bits) | top << 16;
    __builtin_memcpy(pairs + h, &pair, sizeof pair);
  }
}

// to[k][q]: word k of row q for kTile lanes q; lanes without a row are zero.
template <class Math, class T>
void pack_transposed(const HeadRows<T>& rows, std::int64_t words, float* to) {
  for (std::int64_t q = 0; q < kTile; q += Vec::kLanes) {
    for_each_vec(words, [&](std::int64_t k, int n) {
      Vec block[Vec::kLanes];
      for (int i = 0; i < Vec::kLanes; ++i)
        block[i] = q + i < rows.count ? Math::words(rows.row(q + i) + k * Math::kPerWord, n) : splat(0.0f);
      transpose(block);
      for (int i = 0; i < n; ++i) store(block[i], to + (k + i) * kTile + q);
    });
  }
}

// to[r][h]: the rows, or pairs of rows, with `width` >= H lanes of h; lanes and rows beyond the end are zero.
template <class Math, class T>
void pack_rows(const HeadRows<T>& rows, std::int64_t H, std::int64_t width, float* to) {
  constexpr std::int64_t kStep = Math::kPerWord;
  for (std::int64_t r = 0; r < kTile; r += kStep, to += width) {
    std::int64_t filled = 0;
    if (r < rows.count) {
      if constexpr (kStep == 1)
        for_each_vec(H, [&](std::int64_t h, int n) { put(get(rows.row(r) + h, n), to + h, n); });
      else
        pair_rows(rows.row(r), r + 1 < rows.count ? rows.row(r + 1) : nullptr, H, to);
      filled = H;
    }
    for (std::int64_t h = filled; h < width; ++h) to[h] = 0.0f;
  }
}

// A tile of keys (or values) as left operands.
struct KeyOperands {
  OperandA by_key;  // A(j, word of h)
  OperandA by_dim;  // A(h, word of j)
};

// buffer: kTile * H words. What Math cannot read in place is converted into it; by_dim only when wanted.
template <class Math, class T>
KeyOperands key_operands(const HeadRows<T>& rows, std::int64_t H, bool want_by_dim, float* buffer) {
  constexpr std::int64_t kBytes = sizeof(T);
  if constexpr (Math::kPerWord == 2) {
    if (want_by_dim) {
      for (std::int64_t j = 0; j < rows.count; j += 2)
        pair_rows(rows.row(j), j + 1 < rows.count ? rows.row(j + 1) : nullptr, H, buffer + j / 2 * H);
    }
    return {{rows.data, rows.stride * kBytes, 4}, {buffer, 4, H * 4}};
  } else if constexpr (sizeof(T) == 4) {
    return {{rows.data, rows.stride * kBytes, kBytes}, {rows.data, kBytes, rows.stride * kBytes}};
  } else {
    for (std::int64_t j = 0; j < rows.count; ++j)
      for_each_vec(H, [&](std::int64_t h, int n) { put(get(rows.row(j) + h, n), buffer + j * H + h, n); });
    return {{buffer, H * 4, 4}, {buffer, 4, H * 4}};
  }
}

// to[q][h] = factor[q] * from[h][q], rounded to T.
template <class T>
void unpack_transposed(const float* from, const float* factor, std::int64_t H, std::int64_t count, T* to, std::int64_t stride) {
  for (std::int64_t q = 0; q < count; q += Vec::kLanes) {
    for_each_vec(H, [&](std::int64_t h, int n) {
      Vec block[Vec::kLanes];
      for (int i = 0; i < Vec::kLanes; ++i)
        block[i] = i < n ? load(from + (h + i) * kTile + q) * load(factor + q) : splat(0.0f);
      transpose(block);
      for (int i = 0; i < Vec::kLanes && q + i < count; ++i) put(block[i], to + (q + i) * stride + h, n);
    });
  }
}

}  // namespace strata::STRATA_ISA
