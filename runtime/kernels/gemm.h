// C = A B (+ bias), or C += A B, cut into tiles for a ThreadPool. The cut is a function of shapes and dtypes alone, every tile
// is computed by one thread and holds all of the inner sum, so bits do not depend on the number of threads.
//
// oneDNN computes the tiles: of the libraries of the distribution it is the fastest in f32 and the only one with 16-bit
// operands (bench/results/gemm_libraries.md). Sums are f32. The bf16 dot product of AVX-512 takes denormal operands and sums as
// zero, which for bf16 operands is below 1.2e-38. Where oneDNN has no vector code for bf16 (no AVX-512), tiles are converted to
// f32.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "runtime/kernels/matmul_primitive.h"
#include "runtime/kernels/scratch_slots.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace strata::kernels {

// All matrices are contiguous: shape.lda, ldb and ldc are set by TiledGemm.
struct Gemm {
  MatmulShape shape;  // m, n, k > 0
  MatmulPointers pointers;
};

class TiledGemm {
 public:
  // native: use 16-bit operands directly where the library can.
  TiledGemm(const Gemm& gemm, int threads, bool native);

  std::int64_t tiles() const { return row_blocks_ * col_blocks_; }
  // Each tile once, by at most `threads` threads at a time. Does not throw: the first error is kept.
  void run(std::int64_t tile);
  Status status() const;

 private:
  using Key = std::array<std::int64_t, 4>;  // m, n, k, accumulate

  void make_direct();
  void make_converting();
  void make_converted(std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate);
  const MatmulPrimitive& primitive(std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) const;
  void run_direct(std::int64_t row, std::int64_t col, std::byte* scratch) const;
  void run_converting(std::int64_t row, std::int64_t col, std::byte* scratch) const;
  void finish_rows(std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols, float* sums) const;

  Gemm gemm_;
  std::int64_t tile_rows_ = 0, tile_cols_ = 0;
  std::int64_t row_blocks_ = 0, col_blocks_ = 0;
  bool converting_ = false;
  std::map<Key, MatmulPrimitive> primitives_;  // filled by the constructor, then only read
  std::optional<ScratchSlots> scratch_;
  mutable std::mutex mutex_;
  Status status_;
};

}  // namespace strata::kernels
