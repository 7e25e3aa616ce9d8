// The maps of state_codes.h, made by the compiler: for the host's tables and for those of GPUs.
#pragma once

#include <bit>
#include <cstdint>

#include "optim/state_codes.h"
#include "runtime/status.h"

namespace strata {

constexpr StateCodes make_state_codes(bool is_signed) {
  // 0, then for each power of ten the middles of as many equal parts of [0.1, 1] as double from one to the next, then 1.
  constexpr double kPowers[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
  float magnitudes[256] = {};
  int count = 1, parts = is_signed ? 1 : 2;
  for (const double power : kPowers) {
    for (int k = 0; k < parts; ++k) magnitudes[count++] = static_cast<float>((0.1 + 0.9 * (k + 0.5) / parts) * power);
    parts *= 2;
  }
  magnitudes[count++] = 1.0f;
  STRATA_CHECK(count == (is_signed ? 129 : 256), "a code has 8 bits");

  StateCodes codes = {.is_signed = is_signed, .values = {}, .below = {}, .thresholds = {}};
  const int zero = is_signed ? StateCodes::kSignedZero : 0;
  for (int i = 0; i < count; ++i) codes.values[zero + i] = magnitudes[i];
  for (int i = 1; i <= zero; ++i) codes.values[zero - i] = -magnitudes[i];  // -1 has none

  for (std::uint32_t& threshold : codes.thresholds) threshold = 0x7fffffffu;
  for (int i = 0; i + 1 < count; ++i) {
    const double half_way = (static_cast<double>(magnitudes[i]) + static_cast<double>(magnitudes[i + 1])) / 2.0;
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(half_way));
    codes.thresholds[i] = static_cast<double>(std::bit_cast<float>(bits)) > half_way ? bits - 1 : bits;
  }
  int inside = 0;  // the first threshold that is not below the cell
  for (std::int32_t cell = 0; cell < StateCodes::kCells; ++cell) {
    const std::uint32_t next = static_cast<std::uint32_t>(cell + StateCodes::kFirstCell + 1) << 16;
    codes.below[cell] = static_cast<std::uint8_t>(inside);
    if (codes.thresholds[inside] < next) ++inside;
    STRATA_CHECK(codes.thresholds[inside] >= next, "a cell has one threshold at most");
  }
  return codes;
}

}  // namespace strata
