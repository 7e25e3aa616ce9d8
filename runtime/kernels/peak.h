// What the processor's multiply-add units give at most: the denominator of every GEMM benchmark.
#pragma once

#include "runtime/thread_pool.h"

namespace strata::kernels {

struct PeakRates {
  double f32_gflops = 0.0;
  double bf16_gflops = 0.0;  // bf16 products summed in f32; 0 without such instructions
};

// Multiply-adds on registers alone, with the active instruction set (isa.h) and all threads of the pool at once; the best of a
// few runs, about a quarter of a second in all. Two operations a multiply-add.
PeakRates measure_peak(ThreadPool& pool);

}  // namespace strata::kernels
