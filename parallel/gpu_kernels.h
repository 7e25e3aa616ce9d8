// The GPU kernels of this folder (parallel/gpu/*.cu), compiled like those of runtime/gpu/kernel_table.h. Whoever makes a
// GpuDriver gives it this table: driver->add_table(gpu_cuda::parallel_kernel_table()).
#pragma once

#include <cstdint>

#include "runtime/gpu/driver.h"

namespace strata {

// acc = ((acc + x_0) + x_1) + ... in f32 by rank: the bits of sum_in_rank_order (exchange.h). All memory is the device's;
// acc overlaps nothing else.
struct RankSumArgs {
  float* acc = nullptr;           // n elements
  const float* own = nullptr;     // x_self, n elements
  const float* others = nullptr;  // the other ranks' x, by rank, `stride` elements from one to the next
  std::int64_t stride = 0;
  int self = 0;
  int ranks = 1;
  std::int64_t n = 0;
  bool overwrite = false;  // acc = (x_0 + x_1) + ...
};

struct ParallelGpuKernels {
  void (*add_in_rank_order)(const RankSumArgs&, GpuQueue&);
};

namespace gpu_cuda {
const ParallelGpuKernels& parallel_kernel_table();
}
namespace gpu_emulated {
const ParallelGpuKernels& parallel_kernel_table();
}

}  // namespace strata
