// Element types and their conversions. Rounding to 16 bit is integer arithmetic with one definition for every processor
// (round to nearest even, one canonical NaN, denormals kept), so that placement cannot change a bit.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace strata {

enum class DType : std::uint8_t { f32, bf16, f16, i32 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f32 || dtype == DType::i32 ? 4 : 2; }
constexpr const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
  }
  return "?";
}

struct bf16 {
  std::uint16_t bits = 0;
};
struct f16 {
  std::uint16_t bits = 0;
};

inline constexpr std::uint16_t kBf16CanonicalNaN = 0x7fc0;
inline constexpr std::uint16_t kF16CanonicalNaN = 0x7e00;

constexpr float to_float(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

constexpr bf16 to_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {kBf16CanonicalNaN};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

constexpr float to_float(f16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // zero or denormal: the value is mantissa * 2^-24, exact in f32
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

constexpr f16 to_f16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const std::uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {kF16CanonicalNaN};
  if (a >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // >= 65520 rounds to infinity
  if (a >= 0x38800000u) {                                                     // normal in f16
    const std::uint32_t r = a - 0x38000000u;
    return {static_cast<std::uint16_t>(sign | ((r + 0xfffu + ((r >> 13) & 1u)) >> 13))};
  }
  if (a < 0x33000000u) return {sign};  // below half of the smallest denormal
  const std::uint32_t shift = 126u - (a >> 23);
  const std::uint32_t m = (a & 0x7fffffu) | 0x800000u;
  const std::uint32_t half = 1u << (shift - 1u);
  const std::uint32_t q = (m + half - 1u + ((m >> shift) & 1u)) >> shift;
  return {static_cast<std::uint16_t>(sign | q)};
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};

}  // namespace strata
