// The bodies of FRUGAL's updates (frugal_rules.h), one table for each instruction set. states_are_zero: the stored ones are not
// read.
#pragma once

#include "optim/frugal.h"

namespace strata {

struct FrugalKernels {
  void (*adamw)(const FrugalSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest, bool states_are_zero);
  void (*lion)(const FrugalSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest, bool states_are_zero);
  void (*momentum)(const FrugalSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest,
                   bool states_are_zero);
};
// Of the instruction set in use (runtime/kernels/isa.h).
const FrugalKernels& frugal_kernels();

namespace isa_generic {
const FrugalKernels& frugal_kernels();
}
namespace isa_avx2 {
const FrugalKernels& frugal_kernels();
}
namespace isa_avx512 {
const FrugalKernels& frugal_kernels();
}

}  // namespace strata
