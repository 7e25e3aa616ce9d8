#include "optim/bias_correction.h"

#include "runtime/status.h"

namespace strata {

double bias_correction(double beta, std::int64_t step) {
  STRATA_CHECK(step >= 1, "steps count from 1");
  double power = 1.0;
  for (double x = beta; step > 0; step >>= 1, x *= x) {
    if (step & 1) power *= x;
  }
  return 1.0 - power;
}

}  // namespace strata
