#include "optim/clip.h"

#include <cmath>

namespace strata {

double global_norm(std::span<const double> partials) {
  double sum = 0.0;
  for (const double partial : partials) sum += partial;
  return std::sqrt(sum);
}

double clip_coefficient(double norm, double max_norm) {
  if (max_norm <= 0.0) return 1.0;
  const double coefficient = max_norm / (norm + 1e-6);
  return coefficient > 1.0 ? 1.0 : coefficient;  // not std::min: NaN must pass
}

}  // namespace strata
