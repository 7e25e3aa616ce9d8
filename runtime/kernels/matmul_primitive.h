// One matrix product C = A B by oneDNN on the calling thread alone. Used by gemm.h, which cuts products into tiles; a file of
// its own because only it knows the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "runtime/dtype.h"

namespace strata::kernels {

// Row-major matrices; lda, ldb, ldc are distances between stored rows in elements.
struct MatmulShape {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  bool trans_a = false;     // A is stored as [k, m]
  bool trans_b = false;     // B is stored as [n, k]
  bool accumulate = false;  // C += A B, added in f32 before the one rounding
  bool bias = false;        // a row of n elements of the operands' dtype, added to every row of C
  DType operands = DType::f32;
  DType result = DType::f32;
};

struct MatmulPointers {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;
  void* c = nullptr;
};

class MatmulPrimitive {
 public:
  // Empty where the library has no vectorised code for the shape on this processor (16-bit operands without AVX-512), or none
  // that works.
  // Compiled code is shared between equal shapes and bounded by oneDNN's own primitive cache, so that making a known
  // primitive again takes microseconds.
  static std::optional<MatmulPrimitive> create(const MatmulShape& shape);

  std::size_t scratch_bytes() const;
  // Any number of threads at a time, each with scratch of its own: scratch_bytes(), aligned to 64 (null when 0).
  // Starts no OpenMP threads. Throws StatusError when the library fails.
  void run(const MatmulPointers& pointers, std::byte* scratch) const;

 private:
  struct Impl;
  explicit MatmulPrimitive(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace strata::kernels
