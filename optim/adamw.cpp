#include "optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "optim/adamw_bodies.h"
#include "runtime/kernels/isa.h"
#include "runtime/status.h"

namespace strata {
namespace {

// Elements of one task: its arrays (1.1 MiB) are large against the cost of handing it out, small against a record.
constexpr std::int64_t kBlock = std::int64_t{1} << 16;

// x^n, n >= 0, by repeated squaring.
double power(double x, std::int64_t n) {
  double result = 1.0;
  for (; n > 0; n >>= 1, x *= x) {
    if (n & 1) result *= x;
  }
  return result;
}

AdamWSlice part(const AdamWSlice& s, std::int64_t begin, std::int64_t n) {
  AdamWSlice part = s;
  part.n = n;
  const auto move = [begin](auto*& array) {
    if (array != nullptr) array += begin;
  };
  move(part.p);
  move(part.m);
  move(part.v);
  move(part.g);
  move(part.g16);
  move(part.p16);
  move(part.new_p);
  move(part.new_m);
  move(part.new_v);
  return part;
}

}  // namespace

AdamWScalars adamw_scalars(const AdamWConfig& config, double lr, std::int64_t step, double grad_scale) {
  STRATA_CHECK(step >= 1, "AdamW counts steps from 1");
  const auto rounded = [](double x) { return static_cast<float>(x); };
  return {.beta1 = rounded(config.beta1),
          .one_minus_beta1 = rounded(1.0 - config.beta1),
          .beta2 = rounded(config.beta2),
          .one_minus_beta2 = rounded(1.0 - config.beta2),
          .step_size = rounded(lr / (1.0 - power(config.beta1, step))),
          .inv_sqrt_bias2 = rounded(1.0 / std::sqrt(1.0 - power(config.beta2, step))),
          .eps = rounded(config.eps),
          .decay_factor = rounded(1.0 - lr * config.weight_decay),
          .grad_scale = rounded(grad_scale)};
}

void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars) {
  STRATA_CHECK(slice.n >= 0, "a slice has no negative length");
#if defined(__x86_64__)
  switch (kernels::active_isa()) {
    case kernels::Isa::generic: break;
    case kernels::Isa::avx2: return isa_avx2::adamw_update(slice, scalars);
    case kernels::Isa::avx512: return isa_avx512::adamw_update(slice, scalars);
  }
#endif
  isa_generic::adamw_update(slice, scalars);
}

void adamw_update(const AdamWSlice& slice, const AdamWScalars& scalars, ThreadPool& pool) {
  const std::int64_t blocks = (slice.n + kBlock - 1) / kBlock;
  pool.parallel_for(blocks, [&](std::int64_t block) {
    const std::int64_t begin = block * kBlock;
    adamw_update(part(slice, begin, std::min(kBlock, slice.n - begin)), scalars);
  });
}

}  // namespace strata
