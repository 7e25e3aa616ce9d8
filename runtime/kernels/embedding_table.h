// The loops of embedding.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

template <class T>
struct EmbeddingForwardLoop {
  const std::int32_t* tokens;
  const T* wte;
  const T* wpe;  // null: no positions
  T* y;
  std::int64_t seq, C;  // seq: tokens of a sequence
};

template <class T>
struct EmbeddingBackwardLoop {
  const std::int32_t* tokens;
  const T* dy;
  float* dwte;
  float* dwpe;  // null: no positions
  std::int64_t R, seq, C;
};

template <class T>
struct EmbeddingLoops {
  // Rows [first, last).
  void (*forward)(const EmbeddingForwardLoop<T>& a, std::int64_t first, std::int64_t last);
  // Columns [first, last) of every row, rows in order.
  void (*backward)(const EmbeddingBackwardLoop<T>& a, std::int64_t first, std::int64_t last);
};

using EmbeddingTable = ByDType<EmbeddingLoops>;

}  // namespace strata::kernels

STRATA_ISA_TABLE(EmbeddingTable, embedding_table)
