// Loops over lanes that compilers turn into vectors; no other order of the operations is possible.
#include <bit>
#include <cstdint>

#include "runtime/kernels/normal_rule.h"
#include "runtime/kernels/normal_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

using kernels::kNormalGroup;
using kernels::kNormalLanes;
using kernels::NormalStream;

struct Ops {
  static float add(float a, float b) { return a + b; }
  static float sub(float a, float b) { return a - b; }
  static float mul(float a, float b) { return a * b; }
  static float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static float sqrt(float a) { return __builtin_sqrtf(a); }
  static std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }
  static float value(std::uint32_t x) { return std::bit_cast<float>(x); }
};

struct Words {
  alignas(64) std::uint32_t of[4][kNormalLanes];
};

// philox4x32() of as many blocks as there are lanes.
void draw(const NormalStream& stream, std::uint64_t first_block, Words& words) {
  auto& c = words.of;
  for (int l = 0; l < kNormalLanes; ++l) {
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(l);
    c[0][l] = static_cast<std::uint32_t>(block);
    c[1][l] = static_cast<std::uint32_t>(block >> 32);
    c[2][l] = static_cast<std::uint32_t>(stream.stream);
    c[3][l] = static_cast<std::uint32_t>(stream.stream >> 32);
  }
  auto key0 = static_cast<std::uint32_t>(stream.seed), key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  using Rule = kernels::PhiloxRule<Ops>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    for (int l = 0; l < kNormalLanes; ++l) Rule::round(c[0][l], c[1][l], c[2][l], c[3][l], key0, key1);
    Rule::next_keys(key0, key1);
  }
}

void fill(const NormalStream& stream, std::uint64_t first_group, std::int64_t groups, float* out) {
  Words words;
  const float mean = stream.mean, deviation = stream.deviation;
  for (std::int64_t g = 0; g < groups; ++g, out += kNormalGroup) {
    draw(stream, (first_group + static_cast<std::uint64_t>(g)) * kNormalLanes, words);
    for (int half = 0; half < 2; ++half) {
      const auto& radius = words.of[2 * half];
      const auto& angle = words.of[2 * half + 1];
      float* const a_out = out + 2 * half * kNormalLanes;
      float* const b_out = a_out + kNormalLanes;
      for (int l = 0; l < kNormalLanes; ++l) {
        float a, b;
        kernels::NormalRule<Ops>::pair(radius[l], angle[l], a, b);
        a_out[l] = Ops::fma(deviation, a, mean);
        b_out[l] = Ops::fma(deviation, b, mean);
      }
    }
  }
}

}  // namespace

const kernels::NormalTable& normal_table() {
  static constexpr kernels::NormalTable kTable = {fill};
  return kTable;
}

}  // namespace strata::STRATA_ISA
