// The loops of activation.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

template <class T>
struct ActivationLoops {
  // n elements.
  void (*gelu_forward)(const T* x, T* y, std::int64_t n);
  void (*gelu_backward)(const T* x, const T* dy, T* dx, std::int64_t n);
  // F elements of one row.
  void (*swiglu_forward)(const T* gate, const T* up, T* y, std::int64_t F);
  void (*swiglu_backward)(const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t F);
};

using ActivationTable = ByDType<ActivationLoops>;

}  // namespace strata::kernels

STRATA_ISA_TABLE(ActivationTable, activation_table)
