// state_noise.h on a GPU.
#pragma once

#include "optim/state_noise.h"
#include "runtime/gpu/device.h"
#include "runtime/gpu/kernels/units.h"
#include "runtime/kernels/normal_rule.h"

namespace strata::STRATA_GPU {

struct NoiseBlock {
  std::uint32_t words[4];
};

STRATA_DEVICE NoiseBlock noise_block(const StateNoise& noise, std::uint64_t block) {
  NoiseBlock b = {{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), noise.step[0], noise.step[1]}};
  std::uint32_t key0 = noise.key[0], key1 = noise.key[1];
  using Rule = kernels::PhiloxRule<NoiseBlock>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    Rule::round(b.words[0], b.words[1], b.words[2], b.words[3], key0, key1);
    Rule::next_keys(key0, key1);
  }
  return b;
}

// The words of a unit's elements, which begin at `first` of the slice.
STRATA_DEVICE void noise_of_unit(const StateNoise& noise, std::int64_t first, std::uint32_t (&words)[kUnit]) {
  const auto element = static_cast<std::uint64_t>(noise.first + first);
  if (element % 4 == 0) {
    for (int part = 0; part < kUnit; part += 4) {
      const NoiseBlock block = noise_block(noise, element / 4 + static_cast<std::uint64_t>(part / 4));
      for (int i = 0; i < 4; ++i) words[part + i] = block.words[i];
    }
    return;
  }
  for (int i = 0; i < kUnit; ++i) {
    const NoiseBlock block = noise_block(noise, (element + static_cast<std::uint64_t>(i)) / 4);
    const auto which = (element + static_cast<std::uint64_t>(i)) % 4;
    words[i] = which == 0 ? block.words[0] : which == 1 ? block.words[1] : which == 2 ? block.words[2] : block.words[3];
  }
}

// a as bf16 has it, rounded by its word: what put() then stores without rounding.
STRATA_DEVICE float rounded_by(std::uint32_t word, int state, float a) {
  const std::uint32_t noise = state == 0 ? word & 0xffffu : word >> 16;
  return bits_to_float((float_to_bits(a) + noise) & 0xffff0000u);
}

}  // namespace strata::STRATA_GPU
