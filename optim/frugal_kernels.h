// The bodies of FRUGAL's updates (frugal_rules.h), one table for each instruction set.
#pragma once

#include "optim/frugal.h"

namespace strata {

struct FrugalKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars, const StateFreeScalars& rest);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars, const StateFreeScalars& rest);
  void (*momentum)(const UpdateSlice& slice, const FrugalMomentumScalars& scalars, const StateFreeScalars& rest);
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
