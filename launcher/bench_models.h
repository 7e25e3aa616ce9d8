// The models whose shapes benchmarks use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace strata {

// gpt2-124m, gpt2-1.6b (Radford et al. 2019); llama-1b (Llama 3.2), llama-7b (Touvron et al. 2023); tiny: for tests.
const std::vector<std::string>& bench_model_names();
// name: one of them. Sequences of up to `seq_length` tokens are allowed.
ModelConfig bench_model(const std::string& name, std::int64_t seq_length);

// y [R, out] = x [R, in] W^T.
struct LinearShape {
  std::string name;
  std::int64_t in = 0, out = 0;
};
// The linear layers of one block, and the head as the last one.
std::vector<LinearShape> linear_shapes(const ModelConfig& config);

// What one step over `tokens` tokens must multiply and add, whatever is computed twice: 6 a token for every weight of a matrix
// product (2 forward, 4 backward), and causal attention's 6 N H T a token and layer.
double model_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t seq_length);

}  // namespace strata
