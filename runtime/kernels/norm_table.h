// The loops of norm.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

// Null pointers: not given.
template <class T>
struct NormForwardLoop {
  const T* x;
  const T* residual;
  T* sum;
  const T* w;
  const T* b;
  T* y;
  float* mean;
  float* rstd;
  std::int64_t C;
  float eps;
};

template <class T>
struct NormBackwardLoop {
  const T* dy;
  const T* s;
  const T* w;
  const float* mean;
  const float* rstd;
  const T* dresidual;
  T* dx;
  std::int64_t C;
};

// H-element heads of rows of N query, K key and K value heads.
template <class T>
struct HeadNormForwardLoop {
  const T* in;
  const T* wq;
  const T* wk;
  T* out;
  float* rstd;
  std::int64_t N, K, H;
  float eps;
};

template <class T>
struct HeadNormBackwardLoop {
  T* dqkv;
  const T* in;
  const T* wq;
  const T* wk;
  const float* rstd;
  std::int64_t N, K, H;
};

template <class T>
struct NormLoops {
  // Rows [first, last). Backward overwrites dw, db (C each) and dwq, dwk (H each) with the sums over those rows.
  void (*layer_forward)(const NormForwardLoop<T>& a, std::int64_t first, std::int64_t last);
  void (*rms_forward)(const NormForwardLoop<T>& a, std::int64_t first, std::int64_t last);
  void (*layer_backward)(const NormBackwardLoop<T>& a, std::int64_t first, std::int64_t last, float* dw, float* db);
  void (*rms_backward)(const NormBackwardLoop<T>& a, std::int64_t first, std::int64_t last, float* dw, float* db);
  void (*head_forward)(const HeadNormForwardLoop<T>& a, std::int64_t first, std::int64_t last);
  void (*head_backward)(const HeadNormBackwardLoop<T>& a, std::int64_t first, std::int64_t last, float* dwq, float* dwk);
};

struct NormTable {
  ByDType<NormLoops> loops;
  // sum[c] += partials[0][c] + partials[1][c] + ... for c in [first, last); the row k of partials starts at k * stride.
  void (*combine)(const float* partials, std::int64_t blocks, std::int64_t stride, float* sum, std::int64_t first,
                  std::int64_t last);
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(NormTable, norm_table)
