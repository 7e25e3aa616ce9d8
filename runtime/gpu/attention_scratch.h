// What the GPU's attention backward needs beside its results, as a pure function: plans are made where there is no GPU.
#pragma once

#include <cstdint>

namespace strata {

// f32 words: for every query of every head the sum of do * o. A multiple of 64.
constexpr std::int64_t gpu_attention_backward_words(std::int64_t B, std::int64_t N, std::int64_t T) {
  return (B * N * T + 63) / 64 * 64;
}

}  // namespace strata
