// Rotary position embedding (Su et al. 2021), half-split pairing as in Llama: (i, i + H/2).
// See embedding.h for threads and ordering.
#pragma once

#include <vector>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

struct RopeScaling {  // Llama-3.1's "llama3" rule; factor 1: none
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position = 8192;
};
// H/2 inverse frequencies theta^(-2i/H), scaled; computed in double, rounded once.
std::vector<float> rope_inverse_frequencies(std::int64_t H, double theta, const RopeScaling& scaling);
// Fills cos_TH2, sin_TH2 (f32, [T, H/2]) with cos and sin of position * inverse frequency (product in f32 as PyTorch does).
void rope_tables(std::int64_t T, const std::vector<float>& inverse_frequencies, float* cos_TH2, float* sin_TH2);

// Rotates the N query and K key heads of every fused qkv row in place by the row's position (r % T);
// inverse: rotates back, which is the backward pass.
struct RopeArgs {
  TensorRef qkv_RD;                 // f32 or bf16, D = (N + 2K) * H
  ConstTensorRef cos_TH2, sin_TH2;  // f32, at least T rows
  std::int64_t T = 0, N = 0, K = 0, H = 0;
  bool inverse = false;
};
void rope_apply(const RopeArgs& args, StreamRef stream);

}  // namespace strata::kernels
