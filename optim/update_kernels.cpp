#include "optim/update_kernels.h"

#include "runtime/kernels/isa.h"

namespace strata {

const UpdateKernels& update_kernels() {
#if defined(__x86_64__)
  switch (kernels::active_isa()) {
    case kernels::Isa::generic: break;
    case kernels::Isa::avx2: return isa_avx2::update_kernels();
    case kernels::Isa::avx512: return isa_avx512::update_kernels();
  }
#endif
  return isa_generic::update_kernels();
}

}  // namespace strata
