// How a block of 8-bit states is coded (state_codes.h), written once for processors and GPUs. A template over the operations of
// either, as update_rules.h.
#pragma once

#include <cstdint>

#include "optim/state_codes.h"
#include "runtime/host_device.h"

namespace strata {

template <class Ops>
struct CodeRule {
  // What a block's values are multiplied by before they are coded; reciprocal: of its largest magnitude. Zeros stay zeros. With
  // an infinity among them products keep the signs of their values: that of infinity times zero differs between processors.
  STRATA_HOST_DEVICE static float scale(float reciprocal) {
    constexpr float kMost = 3.402823466e+38f;
    return reciprocal > 0.0f && reciprocal < kMost ? reciprocal : kMost;
  }
  // What is stored of the largest magnitude, both as f32 bits.
  STRATA_HOST_DEVICE static std::uint32_t stored_largest(std::uint32_t largest) {
    return largest < 0x7f800000u ? largest : 0x7fc00000u;
  }
  // Of a product, as f32 bits; below, thresholds: a map's, or what can be indexed as they are.
  template <bool kSigned, class Below, class Thresholds>
  STRATA_HOST_DEVICE static int code(std::uint32_t product, const Below& below, const Thresholds& thresholds) {
    const std::uint32_t magnitude = product & 0x7fffffffu;
    std::int32_t cell = static_cast<std::int32_t>(magnitude >> 16) - StateCodes::kFirstCell;
    cell = cell < 0 ? 0 : cell < StateCodes::kCells ? cell : StateCodes::kCells - 1;
    int code = below[cell];
    if (magnitude > thresholds[code]) ++code;
    if constexpr (!kSigned) return code;
    constexpr int kZero = StateCodes::kSignedZero;
    return product >> 31 == 0u ? kZero + code : kZero - (code < kZero ? code : kZero);
  }
};

}  // namespace strata
