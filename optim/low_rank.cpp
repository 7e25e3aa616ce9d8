#include "optim/low_rank.h"

#include <cmath>

#include "optim/bias_correction.h"
#include "optim/low_rank_kernels.h"
#include "runtime/kernels/isa.h"
#include "runtime/status.h"

namespace strata {

LowRankScalars low_rank_scalars(const LowRankConfig& config, double grad_scale) {
  const auto rounded = [](double x) { return static_cast<float>(x); };
  return {.one_minus_beta1 = rounded(1.0 - config.beta1),
          .beta2 = rounded(config.beta2),
          .one_minus_beta2 = rounded(1.0 - config.beta2),
          .eps = rounded(config.eps),
          .grad_scale = rounded(grad_scale)};
}

double uncorrected_step_size(double lr, double beta1, double beta2, std::int64_t step) {
  return lr * std::sqrt(bias_correction(beta2, step)) / bias_correction(beta1, step);
}

float late_decay_factor(double lr, double weight_decay) { return static_cast<float>(1.0 - lr * weight_decay); }

std::int64_t low_rank_workspace(std::int64_t rank) { return low_rank_kernels().workspace(rank); }

const LowRankKernels& low_rank_kernels() {
#if defined(__x86_64__)
  switch (kernels::active_isa()) {
    case kernels::Isa::generic: break;
    case kernels::Isa::avx2: return isa_avx2::low_rank_kernels();
    case kernels::Isa::avx512: return isa_avx512::low_rank_kernels();
  }
#endif
  return isa_generic::low_rank_kernels();
}

}  // namespace strata
