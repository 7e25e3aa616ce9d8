// AdamW (Loshchilov and Hutter 2019) with PyTorch's semantics, as one written sequence of correctly rounded IEEE f32
// operations: the same bits on AVX-512, AVX2, plain C++ and CUDA (gpu_kernels.h), whatever the vector width, slicing or
// alignment.
// Denormals are kept; callers' threads must not set FTZ/DAZ.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/thread_pool.h"

namespace strata {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;  // decoupled; applied only where a slice says so
};

// One step's scalars: computed once in double from the integer step, each rounded once to f32.
struct AdamWScalars {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;       // lr / (1 - beta1^step)
  float inv_sqrt_bias2;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float decay_factor;  // 1 - lr * weight_decay
  float grad_scale;    // clip coefficient; 1 changes no bit
  bool operator==(const AdamWScalars&) const = default;
};
// step is 1-based.
// Powers of the betas are made by repeated squaring, so they are the same on every machine.
AdamWScalars adamw_scalars(const AdamWConfig& config, double lr, std::int64_t step, double grad_scale);

// n elements of one parameter group, f32 but for what has 16 in its name. The arrays do not overlap; any alignment of the
// element type will do. Per element, in this order, each operation rounded once:
//   g' = g * grad_scale;  p' = decay ? p * decay_factor : p;  m = fma(one_minus_beta1, g' - m, m);
//   v = fma(one_minus_beta2 * g', g', beta2 * v);  d = fma(sqrt(v), inv_sqrt_bias2, eps);  p = fma(-step_size, m / d, p')
// Speed: arrays whose distances are multiples of a large power of two (p, m, v, g of 2^k elements laid end to end) meet in the
// same memory banks and run at half the rate; keep them off by 16 KiB or more.
// A NaN result is stored as 0x7fc00000 (p16: 0x7fc0), because processors disagree on the NaN they produce.
struct AdamWSlice {
  float* p = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  const float* g = nullptr;
  bf16* p16 =
      nullptr;  // optional: receives p rounded to bf16; written past the caches, and visible to all when the call returns
  std::int64_t n = 0;
  bool decay = false;
  const bf16* g16 = nullptr;  // if any, the gradient is this and not g
  // All three or none: what p, m and v become goes here, and they are only read.
  float* new_p = nullptr;
  float* new_m = nullptr;
  float* new_v = nullptr;
};
// On the calling thread. Elements do not depend on each other: any cutting into slices gives the same bits.
void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars);
// Cut into blocks over the pool; the calling thread takes part. The same bits.
void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars, ThreadPool& pool);

}  // namespace strata
