// The bias corrections of moments that begin at zero.
#pragma once

#include <cstdint>

namespace strata {

// 1 - beta^step, step >= 1: the power by repeated squaring, so that it is the same on every machine.
double bias_correction(double beta, std::int64_t step);

}  // namespace strata
