// Causal self-attention with grouped queries, and the rotary tables that all attention layers of a model share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/layers.h"
#include "runtime/kernels/rope.h"

namespace strata {

// cos and sin of every position, f32, computed by prepare(), or when first needed, and again when a longer sequence comes. Held
// in the arena of the run that asks. One driving thread; one compute stream at a time.
class RopeTables {
 public:
  // Positions are in [0, max_positions).
  RopeTables(std::int64_t H, double theta, const kernels::RopeScaling& scaling, std::int64_t max_positions);

  struct View {
    ConstTensorRef cos_TH2, sin_TH2;
  };
  void prepare(StreamRef stream, TierArena& arena, std::int64_t T);
  // At least T rows, valid for what is enqueued on ctx.stream after this call and before the next get().
  View get(const UnitContext& ctx, std::int64_t T);

 private:
  void fill(StreamRef stream, std::int64_t rows) const;
  std::vector<float> inverse_frequencies_;
  std::int64_t max_positions_;
  std::int64_t rows_ = 0;
  Tensor cos_TH2_, sin_TH2_;
  Event filled_;
};

// Parameters: <name>.qkv.weight [(N + 2K) H, C] (rows: query heads, key heads, value heads), <name>.qkv.bias, <name>.out.weight
// [C, N H], <name>.out.bias, <name>.q_norm.weight [H], <name>.k_norm.weight [H]; those that the options ask for. With long
// rows, out.weight is [N H, C] where C < N H.
//
// saved tensor | shape           | dtype   | why it is not recomputed
// qkv          | [R, (N + 2K) H] | compute | a GEMM. With qk_norm: before norm and rotation, which are repeated (cheap);
//              |                 |         | without: after rotation
// o            | [R, N H]        | compute | attention itself
// lse          | [B, N, T]       | f32     | attention itself
class CausalSelfAttention {
 public:
  struct Options {
    std::int64_t C = 0, N = 0, K = 0, H = 0;
    bool qkv_bias = false, out_bias = false;
    bool qk_norm = false;
    double qk_norm_eps = 1e-6;
    Init init = Init::normal(0.02f);
    Init out_init = Init::normal(0.02f);
    std::shared_ptr<RopeTables> rope;  // null: no rotary embedding
    bool long_rows = false;            // ModelConfig::long_rows
  };
  CausalSelfAttention(std::vector<ParamSpec>& params, const std::string& name, const Options& options);

  void prepare(StreamRef stream, TierArena& arena, std::int64_t T) const;
  // Rows of x are ctx.batch.B sequences of ctx.batch.T tokens. Returns [R, C].
  Tensor forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const;
  // The backward in two parts, so that x need not exist during the first one. dqkv: gradient of the qkv projection's output.
  Tensor backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const;
  // dx may be the same buffer as x.
  void backward_projection(const UnitContext& ctx, const ConstTensorRef& dqkv_RD, const ConstTensorRef& x_RC,
                           const TensorRef& dx_RC) const;

 private:
  struct NormedHeads {
    Tensor qkv_RD;   // normalised and rotated
    Tensor rstd_RM;  // f32, M = N + K
  };
  NormedHeads normalise_heads(const UnitContext& ctx, const Tensor& qkv_RD) const;
  void backward_heads(const UnitContext& ctx, const Tensor& qkv_RD, const Tensor& rstd_RM, const Tensor& dqkv_RD) const;
  void rotate(const UnitContext& ctx, const TensorRef& qkv_RD, bool inverse) const;

  Options options_;
  Linear qkv_, out_;
  std::size_t q_norm_ = 0;  // k_norm at q_norm_ + 1
  float scale_;
};

}  // namespace strata
