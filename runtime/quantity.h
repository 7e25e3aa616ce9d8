// Measured numbers for people.
#pragma once

#include <string>

namespace strata {

// "53.4 GB/s", "1.78 G parameters/s", "12.3 ms": three significant digits.
std::string format_quantity(double value, const std::string& unit);

}  // namespace strata
