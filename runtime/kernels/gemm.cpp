#include "runtime/kernels/gemm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/kernels/activation_table.h"
#include "runtime/kernels/elementwise.h"
#include "runtime/kernels/host_dispatch.h"

namespace strata::kernels {
namespace {

struct Tile {
  std::int64_t rows, cols;
};

constexpr std::int64_t kAll = INT64_MAX;

// Measured on Zen 4 (bench/results/gemm_libraries.md). Whole rows of C keep oneDNN on its fastest code, which wants C to be
// contiguous, but read all of B for every block of rows: for that B has to fit the cache. Other tiles are sized for their part
// of B to stay in L2 and to leave work for many threads.
Tile choose_tile(const MatmulShape& s) {
  constexpr std::int64_t kCacheBytes = std::int64_t{16} << 20;
  if (s.trans_a) return {384, 384};
  const bool strided_b_is_slow = s.operands == DType::f32 && !s.trans_b;
  const bool b_fits = s.n * s.k * static_cast<std::int64_t>(size_of(s.operands)) <= kCacheBytes;
  if (b_fits && !strided_b_is_slow) {
    if (s.m >= 2048) return {256, kAll};
    if (s.m >= 128 && s.n < 3072) return {128, kAll};
  }
  return s.m >= 2048 ? Tile{512, 384} : Tile{512, 192};
}

// Of tiles that are converted to f32: 0.9 MiB of scratch a thread. Measured with AVX2: 0.77 of the f32 peak forward. Larger
// tiles convert less often, and gain nothing beyond the noise of some per cent.
constexpr Tile kConverted = {128, 256};
constexpr std::int64_t kConvertedInner = 512;

std::size_t converted_bytes(std::int64_t rows, std::int64_t cols) {
  return ScratchSlots::round_up(sizeof(float) * static_cast<std::size_t>((rows + cols) * kConvertedInner + rows * cols));
}

// The distinct lengths of the pieces of n.
std::vector<std::int64_t> lengths_of(std::int64_t n, std::int64_t block) {
  std::vector<std::int64_t> lengths;
  if (n >= block) lengths.push_back(block);
  if (n % block != 0) lengths.push_back(n % block);
  return lengths;
}

// Address of element (row, col) of a stored matrix.
const std::byte* at(const void* base, std::int64_t row, std::int64_t col, std::int64_t ld, DType dtype) {
  return static_cast<const std::byte*>(base) + static_cast<std::size_t>(row * ld + col) * size_of(dtype);
}

void widen_block(const void* from, std::int64_t rows, std::int64_t cols, std::int64_t ld, float* to) {
  for (std::int64_t r = 0; r < rows; ++r) cast_bf16_to_f32(static_cast<const bf16*>(from) + r * ld, to + r * cols, cols);
}

}  // namespace

TiledGemm::TiledGemm(const Gemm& gemm, int threads, bool native) : gemm_(gemm) {
  MatmulShape& s = gemm_.shape;
  STRATA_CHECK(s.m > 0 && s.n > 0 && s.k > 0, "a matrix product of nothing");
  STRATA_CHECK(gemm_.epilogue == Epilogue::none || (!s.accumulate && s.result == s.operands),
               "an activation is applied to a whole sum, and the result has the operands' dtype");
  s.lda = s.trans_a ? s.m : s.k;
  s.ldb = s.trans_b ? s.k : s.n;
  s.ldc = s.n;
  if (native || s.operands == DType::f32) make_direct();
  if (primitives_.empty()) make_converting();
  row_blocks_ = blocks_of(s.m, tile_rows_);
  col_blocks_ = blocks_of(s.n, tile_cols_);
  std::size_t bytes = 0;
  for (const auto& [key, primitive] : primitives_) bytes = std::max(bytes, primitive.scratch_bytes());
  scratch_.emplace(threads, converting_ ? converted_bytes(tile_rows_, tile_cols_) + bytes : bytes);
}

// Leaves no primitives where the library cannot.
void TiledGemm::make_direct() {
  const MatmulShape& s = gemm_.shape;
  const Tile tile = choose_tile(s);
  tile_rows_ = std::min(tile.rows, s.m);
  tile_cols_ = std::min(tile.cols, s.n);
  for (const std::int64_t m : lengths_of(s.m, tile_rows_)) {
    for (const std::int64_t n : lengths_of(s.n, tile_cols_)) {
      MatmulShape piece = s;
      piece.m = m;
      piece.n = n;
      auto made = MatmulPrimitive::create(piece);
      if (!made) return primitives_.clear();
      primitives_.emplace(Key{m, n, s.k, s.accumulate}, std::move(*made));
    }
  }
}

void TiledGemm::make_converting() {
  const MatmulShape& s = gemm_.shape;
  STRATA_CHECK(s.operands == DType::bf16, "oneDNN has f32 products on every processor");
  converting_ = true;
  tile_rows_ = std::min(kConverted.rows, s.m);
  tile_cols_ = std::min(kConverted.cols, s.n);
  // The first piece of the inner sum overwrites, those behind it add.
  const std::int64_t first = std::min(kConvertedInner, s.k);
  for (const std::int64_t m : lengths_of(s.m, tile_rows_)) {
    for (const std::int64_t n : lengths_of(s.n, tile_cols_)) {
      make_converted(m, n, first, false);
      for (const std::int64_t k : lengths_of(s.k - first, kConvertedInner)) make_converted(m, n, k, true);
    }
  }
}

void TiledGemm::make_converted(std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) {
  const MatmulShape& s = gemm_.shape;
  const MatmulShape piece = {.m = m,
                             .n = n,
                             .k = k,
                             .lda = s.trans_a ? m : k,
                             .ldb = s.trans_b ? k : n,
                             .ldc = n,
                             .trans_a = s.trans_a,
                             .trans_b = s.trans_b,
                             .accumulate = accumulate};
  auto made = MatmulPrimitive::create(piece);
  STRATA_CHECK(made.has_value(), "oneDNN has f32 products on every processor");
  primitives_.emplace(Key{m, n, k, accumulate}, std::move(*made));
}

const MatmulPrimitive& TiledGemm::primitive(std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) const {
  return primitives_.at(Key{m, n, k, accumulate});
}

void TiledGemm::run(std::int64_t tile) {
  const ScratchSlots::Lease scratch(*scratch_);
  try {
    // Column blocks outside: neighbouring tiles share their part of B.
    const std::int64_t row = tile % row_blocks_ * tile_rows_;
    const std::int64_t col = tile / row_blocks_ * tile_cols_;
    converting_ ? run_converting(row, col, scratch.data()) : run_direct(row, col, scratch.data());
    if (gemm_.epilogue == Epilogue::none) return;
    gemm_.shape.result == DType::f32 ? activate<float>(row, col) : activate<bf16>(row, col);
  } catch (const StatusError& error) {
    const std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = error.status();
  }
}

void TiledGemm::run_direct(std::int64_t row, std::int64_t col, std::byte* scratch) const {
  const MatmulShape& s = gemm_.shape;
  const MatmulPointers& p = gemm_.pointers;
  const std::int64_t m = std::min(tile_rows_, s.m - row);
  const std::int64_t n = std::min(tile_cols_, s.n - col);
  const MatmulPointers piece = {
      .a = s.trans_a ? at(p.a, 0, row, s.lda, s.operands) : at(p.a, row, 0, s.lda, s.operands),
      .b = s.trans_b ? at(p.b, col, 0, s.ldb, s.operands) : at(p.b, 0, col, s.ldb, s.operands),
      .bias = s.bias ? at(p.bias, 0, col, s.n, s.operands) : nullptr,
      .c = const_cast<std::byte*>(at(target(), row, col, s.ldc, s.result)),
  };
  primitive(m, n, s.k, s.accumulate).run(piece, scratch);
}

void TiledGemm::run_converting(std::int64_t row, std::int64_t col, std::byte* scratch) const {
  const MatmulShape& s = gemm_.shape;
  const MatmulPointers& p = gemm_.pointers;
  const std::int64_t m = std::min(tile_rows_, s.m - row);
  const std::int64_t n = std::min(tile_cols_, s.n - col);
  float* a = reinterpret_cast<float*>(scratch);
  float* b = a + tile_rows_ * kConvertedInner;
  float* c = b + tile_cols_ * kConvertedInner;
  std::byte* rest = scratch + converted_bytes(tile_rows_, tile_cols_);
  for (std::int64_t k0 = 0; k0 < s.k; k0 += kConvertedInner) {
    const std::int64_t k = std::min(kConvertedInner, s.k - k0);
    if (s.trans_a) {
      widen_block(at(p.a, k0, row, s.lda, s.operands), k, m, s.lda, a);
    } else {
      widen_block(at(p.a, row, k0, s.lda, s.operands), m, k, s.lda, a);
    }
    if (s.trans_b) {
      widen_block(at(p.b, col, k0, s.ldb, s.operands), n, k, s.ldb, b);
    } else {
      widen_block(at(p.b, k0, col, s.ldb, s.operands), k, n, s.ldb, b);
    }
    primitive(m, n, k, k0 > 0).run({.a = a, .b = b, .c = c}, rest);
  }
  finish_rows(row, col, m, n, c);
}

// Adds bias and the former C to the sums and rounds once.
void TiledGemm::finish_rows(std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols, float* sums) const {
  const MatmulShape& s = gemm_.shape;
  std::array<float, kConverted.cols> addend;
  for (std::int64_t r = 0; r < rows; ++r) {
    float* sum = sums + r * cols;
    std::byte* c = const_cast<std::byte*>(at(target(), row + r, col, s.ldc, s.result));
    if (s.bias) {
      cast_bf16_to_f32(static_cast<const bf16*>(gemm_.pointers.bias) + col, addend.data(), cols);
      accumulate_f32(addend.data(), sum, cols);
    }
    if (s.result == DType::f32) {
      if (s.accumulate) accumulate_f32(reinterpret_cast<const float*>(c), sum, cols);
      std::memcpy(c, sum, sizeof(float) * static_cast<std::size_t>(cols));
      continue;
    }
    if (s.accumulate) {
      cast_bf16_to_f32(reinterpret_cast<const bf16*>(c), addend.data(), cols);
      accumulate_f32(addend.data(), sum, cols);
    }
    cast_f32_to_bf16(sum, reinterpret_cast<bf16*>(c), cols);
  }
}

// While the tile's sums are in the cache.
template <class T>
void TiledGemm::activate(std::int64_t row, std::int64_t col) const {
  const MatmulShape& s = gemm_.shape;
  const std::int64_t last = std::min(s.m, row + tile_rows_), cols = std::min(tile_cols_, s.n - col);
  const auto& loops = activation_table().get<T>();
  for (; row < last; ++row) {
    T* pre = static_cast<T*>(gemm_.pre) + row * s.n + col;
    T* c = static_cast<T*>(gemm_.pointers.c) + row * s.n + col;
    if (gemm_.epilogue == Epilogue::gelu)
      loops.gelu_forward(pre, c, cols);
    else
      loops.gelu_backward(pre, c, c, cols);
  }
}

Status TiledGemm::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace strata::kernels
