// The bodies of the passes over blocks of rows (low_rank.h, apollo.h, galore.h, frugal_subspace.h), one table for each
// instruction set.
#pragma once

#include "optim/apollo.h"
#include "optim/frugal_subspace.h"
#include "optim/galore.h"
#include "optim/low_rank.h"

namespace strata {

// Rows that a pass takes together: a block of fewer reads the projection as often and has less of it.
inline constexpr std::int64_t kLowRankRows = 96;

struct LowRankKernels {
  void (*apollo_project)(const LowRankBlock& block, const LowRankScalars& scalars, const RowResults& results, float* workspace);
  void (*galore)(const LowRankBlock& block, const WeightRows& weights, const GaloreScalars& scalars, float* workspace);
  void (*subspace)(const LowRankBlock& block, const WeightRows& weights, const SubspaceScalars& scalars, float* workspace);
  // Rows [begin, end) of the Gram matrix.
  void (*add_gram)(const float* g, std::int64_t rows, std::int64_t columns, std::int64_t begin, std::int64_t end, double* gram);
  std::int64_t (*workspace)(std::int64_t rank);
};
// Of the instruction set in use (runtime/kernels/isa.h).
const LowRankKernels& low_rank_kernels();

namespace isa_generic {
const LowRankKernels& low_rank_kernels();
}
namespace isa_avx2 {
const LowRankKernels& low_rank_kernels();
}
namespace isa_avx512 {
const LowRankKernels& low_rank_kernels();
}

}  // namespace strata
