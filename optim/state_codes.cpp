#include "optim/state_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "runtime/status.h"

namespace strata {
namespace {

// 0, then for each power of ten the middles of as many equal parts of [0.1, 1] as double from one to the next, then 1.
std::vector<float> magnitudes(int first_parts) {
  std::vector<float> all = {0.0f};
  for (int i = 0, parts = first_parts; i < 7; ++i, parts *= 2)
    for (int k = 0; k < parts; ++k) all.push_back(static_cast<float>((0.1 + 0.9 * (k + 0.5) / parts) * std::pow(10.0, i - 6)));
  all.push_back(1.0f);
  return all;
}

// The f32 beyond which an f32 is beyond x > 0, as bits.
std::uint32_t at_or_below(double x) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return static_cast<double>(std::bit_cast<float>(bits)) > x ? bits - 1 : bits;
}

StateCodes make_codes(bool is_signed) {
  const std::vector<float> all = magnitudes(is_signed ? 1 : 2);
  StateCodes codes = {.is_signed = is_signed, .values = {}, .below = {}, .thresholds = {}};
  std::vector<float> values = all;
  if (is_signed)  // -1 has none
    for (std::size_t i = 1; i + 1 < all.size(); ++i) values.push_back(-all[i]);
  STRATA_CHECK(values.size() == 256, "a code has 8 bits");
  std::sort(values.begin(), values.end());
  std::copy(values.begin(), values.end(), codes.values);
  std::fill(std::begin(codes.thresholds), std::end(codes.thresholds), 0x7fffffffu);
  for (std::size_t i = 0; i + 1 < all.size(); ++i)
    codes.thresholds[i] = at_or_below((static_cast<double>(all[i]) + static_cast<double>(all[i + 1])) / 2.0);
  for (std::int32_t cell = 0; cell < StateCodes::kCells; ++cell) {
    const std::uint32_t least = cell == 0 ? 0u : static_cast<std::uint32_t>(cell + StateCodes::kFirstCell) << 16;
    const std::uint32_t next = static_cast<std::uint32_t>(cell + StateCodes::kFirstCell + 1) << 16;
    const std::uint32_t *const begin = codes.thresholds, *const end = begin + all.size() - 1;
    const auto* const inside = std::lower_bound(begin, end, least);
    codes.below[cell] = static_cast<std::uint8_t>(inside - begin);
    STRATA_CHECK(std::lower_bound(inside, end, next) - inside <= 1, "a cell has one threshold at most");
  }
  return codes;
}

}  // namespace

const StateCodes& signed_codes() {
  static const StateCodes codes = make_codes(true);
  return codes;
}
const StateCodes& unsigned_codes() {
  static const StateCodes codes = make_codes(false);
  return codes;
}

}  // namespace strata
