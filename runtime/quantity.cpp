#include "runtime/quantity.h"

#include <fmt/core.h>

#include <cmath>
#include <utility>

namespace strata {

std::string format_quantity(double value, const std::string& unit) {
  static constexpr std::pair<double, const char*> kPrefixes[] = {{1e12, "T"}, {1e9, "G"},  {1e6, "M"},  {1e3, "k"},
                                                                 {1.0, ""},   {1e-3, "m"}, {1e-6, "u"}, {1e-9, "n"}};
  double scale = 1.0;
  const char* prefix = "";
  for (const auto& [size, letter] : kPrefixes) {
    if (std::abs(value) >= size) {
      scale = size;
      prefix = letter;
      break;
    }
  }
  const double scaled = value / scale;
  const int digits = std::abs(scaled) >= 99.95 ? 0 : std::abs(scaled) >= 9.995 ? 1 : 2;
  const bool word = unit.size() > 6;  // "1.78 G parameters/s", but "53.4 GB/s"
  return fmt::format("{:.{}f}{}{}{}{}", scaled, digits, *prefix || !unit.empty() ? " " : "", prefix, word ? " " : "", unit);
}

}  // namespace strata
