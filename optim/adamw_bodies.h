// The bodies of adamw_update (adamw_simd.cpp), one per instruction set, for the dispatcher and its tests.
#pragma once

#include "optim/adamw.h"

namespace strata {

namespace isa_generic {
void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars);
}
namespace isa_avx2 {
void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars);
}
namespace isa_avx512 {
void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars);
}

}  // namespace strata
