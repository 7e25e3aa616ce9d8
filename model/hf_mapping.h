// Which Hugging Face tensors make up our parameters.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "runtime/tensor.h"

namespace strata {

// One tensor of a Hugging Face file: rows [row, row + rows) of one of our parameters, as it is stored.
struct HfTensor {
  std::string name;  // GPT-2: with the prefix "transformer."
  std::vector<std::int64_t> shape;
  int unit = 0, param = 0;
  std::int64_t first = 0;              // element of the parameter where its rows begin
  std::int64_t rows = 0, columns = 0;  // ours; columns is 1 for vectors
  // The file has it as (columns, rows): GPT-2's Conv1D, and what others have as (out, in) and we as (in, out).
  bool transposed = false;

  std::int64_t numel() const { return rows * columns; }
};

// All of them; parameters in the model's order and their rows ascending.
Result<std::vector<HfTensor>> hf_mapping(const ModelConfig& config);

// to[c * rows + r] = from[r * columns + c]
void transpose(std::span<const float> from, std::int64_t rows, std::int64_t columns, std::span<float> to);

// A tensor that a file may hold although no parameter is made of it. `name` has no "transformer." prefix.
bool is_ignored_hf_tensor(const ModelConfig& config, std::string_view name);

}  // namespace strata
