// The loops of linear.h that are not the library's, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

// Columns that one call of column_sums covers at most.
inline constexpr std::int64_t kSumColumns = 256;

template <class T>
struct LinearLoops {
  // sums[c] (+)= dy[0][c] + dy[1][c] + ... over `rows` rows of distance `stride`, for `columns` <= kSumColumns columns: f32,
  // rows in blocks of 64 whose sums are added in order.
  void (*column_sums)(const T* dy, std::int64_t rows, std::int64_t stride, std::int64_t columns, bool accumulate, float* sums);
};

struct LinearTable {
  ByDType<LinearLoops> loops;
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(LinearTable, linear_table)
