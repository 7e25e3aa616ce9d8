// Runs a checkpoint's model forward, on one rank, whole and in f32: for `strata generate` and for comparing logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/unit.h"
#include "runtime/rng.h"
#include "runtime/stream.h"

namespace strata {

class InferenceModel {
 public:
  // checkpoint: see find_checkpoint(). Every file's checksums are verified. Memory: 4 bytes a parameter, and activations.
  static Result<std::unique_ptr<InferenceModel>> load(const std::string& checkpoint, int threads);

  const Model& model() const { return *model_; }
  // Logits of the last `rows` positions of one sequence: f32 [rows, V] in row order. tokens.size() <= model().max_tokens().
  Result<std::vector<float>> logits(std::span<const std::int32_t> tokens, std::int64_t rows);

 private:
  InferenceModel(std::unique_ptr<Model> model, int threads);
  Device device_;
  std::unique_ptr<Model> model_;
  TierArena arena_;
  Stream stream_;
  std::vector<std::vector<Tensor>> params_;  // by unit
};

struct SamplingOptions {
  double temperature = 0.8;  // 0: the most likely token
  int top_k = 0;             // 0: all
  std::uint64_t seed = 1234;
};
// Token chosen from one row of logits; draw: number of the random value to use.
std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw);

}  // namespace strata
