// The units of GPT-2 and of the Llama family, and the model built from them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/config.h"
#include "model/mlp.h"
#include "model/unit.h"

namespace strata {

// Token embedding, plus learned positions where the architecture has them.
// Parameters: embedding.weight [V, C]; positions.weight [max_positions, C]. Saves nothing.
class EmbeddingUnit : public BodyUnit {
 public:
  explicit EmbeddingUnit(const ModelConfig& config);
  std::string name() const override { return "embedding"; }
  std::vector<ParamSpec> params() const override { return params_; }
  Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) override;
  Tensor backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) override;

 private:
  std::vector<ParamSpec> params_;
  bool positions_;
  std::int64_t C_;
};

// Pre-norm residual block: s = x + attention(norm(x)); y = s + mlp(norm(s)).
//
// What one block keeps from forward to backward, per row, in elements of the compute dtype (lse: f32 per head):
//   tensor                  | gpt2 (E = C, F = 4C) | llama family
//   x, kept by the caller   | C                    | C
//   qkv, o, lse             | 3C + C               | (N + 2K) H + N H
//   s                       | C                    | C
//   input of the activation | F                    | 2F
//   sum                     | 10 C                 | 2C + (2N + 2K) H + 2F
// Both norms' outputs and the activation's output are computed again, by one pass over memory each. Eager PyTorch keeps them,
// and its own intermediate results of norm and activation, too: 16 C and more.
class BlockUnit : public BodyUnit {
 public:
  BlockUnit(const ModelConfig& config, std::int64_t layer, std::shared_ptr<RopeTables> rope);
  std::string name() const override { return name_; }
  std::vector<ParamSpec> params() const override { return params_; }
  void prepare(StreamRef stream, TierArena& arena, std::int64_t T) override { attention_.prepare(stream, arena, T); }
  Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) override;
  Tensor backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) override;

 private:
  std::string name_;
  std::vector<ParamSpec> params_;  // filled by the layers below, in this order
  Norm attention_norm_;
  CausalSelfAttention attention_;
  Norm mlp_norm_;
  std::unique_ptr<Mlp> mlp_;
};

// Final norm, language-model head and cross-entropy. Works on a few rows at a time, so that no [R, V] matrix exists: see
// logit_chunk_rows. Parameters: final_norm.*; head.weight [V, C], or the shared embedding when tied.
class HeadUnit : public LossUnit {
 public:
  explicit HeadUnit(const ModelConfig& config);
  std::string name() const override { return "head"; }
  std::vector<ParamSpec> params() const override { return params_; }
  std::vector<SharedParam> shared() const override;
  void loss(const UnitContext& ctx, const Tensor& x, TensorRef loss_R) override;
  Tensor loss_and_backward(const UnitContext& ctx, const Tensor& x, TensorRef loss_R, float scale) override;
  Tensor logits(const UnitContext& ctx, TensorRef x_rows) override;

 private:
  std::vector<ParamSpec> params_;
  Norm norm_;
  bool tied_;
  std::size_t weight_;
  std::int64_t V_;
};

// Rows of logits that are computed together: about 32 MiB of f32, which a host's cache may hold, but not fewer rows than a GEMM
// needs to be efficient. On a GPU 512 MiB: no cache holds them, and each chunk reads and writes the head's whole gradient.
std::int64_t logit_chunk_rows(std::int64_t V, const Device& device);

// Error: what ModelConfig::validate() reports.
Result<std::unique_ptr<Model>> make_model(const ModelConfig& config);

}  // namespace strata
