// C = A B (+ bias), C += A B, or a product with an activation behind it, cut into tiles for a ThreadPool. The cut is a function
// of shapes and dtypes alone, every tile is computed by one thread and holds all of the inner sum, so bits do not depend on the
// number of threads.
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

// What becomes of the sums A B (+ bias); gelu is that of activation.h. The activations are of products that do not accumulate,
// and the result has the operands' dtype. TiledGemm rounds the sums to that dtype before it applies gelu, or multiplies by its
// derivative, and rounds again: the bits of the product and then the kernel of activation.h. A GPU's library may apply them to
// the unrounded f32 sums, by an approximation of its own; which of the two is a function of the shape.
enum class Epilogue {
  none,           // C = the sums
  gelu,           // pre = the sums, C = gelu(pre); both are written
  gelu_backward,  // C = the sums times gelu'(pre); pre is read
};

// All matrices are contiguous: shape.lda, ldb and ldc are set by TiledGemm. None overlaps C or, where it is written, pre.
struct Gemm {
  MatmulShape shape;  // m, n, k > 0; with a bias the result has the operands' dtype, which is all that a GPU's library takes
  MatmulPointers pointers;
  Epilogue epilogue = Epilogue::none;
  void* pre = nullptr;  // [m, n] of the result's dtype, where the epilogue has a pre
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
  template <class T>
  void activate(std::int64_t row, std::int64_t col) const;
  // Where the sums go.
  void* target() const { return gemm_.epilogue == Epilogue::gelu ? gemm_.pre : gemm_.pointers.c; }

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
