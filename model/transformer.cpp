#include "model/transformer.h"

#include <algorithm>
#include <cmath>

#include "runtime/kernels/cross_entropy.h"
#include "runtime/kernels/elementwise.h"
#include "runtime/kernels/embedding.h"
#include "runtime/kernels/linear.h"

namespace strata {
namespace {

bool is_gpt2(const ModelConfig& c) { return c.architecture == Architecture::gpt2; }
Norm::Kind norm_kind(const ModelConfig& c) { return is_gpt2(c) ? Norm::Kind::layer : Norm::Kind::rms; }
Init base_init(const ModelConfig& c) { return Init::normal(static_cast<float>(c.init_std)); }

// GPT-2 scales the layers that write to the residual stream by the root of their number (Radford et al. 2019, section 2.3).
Init residual_init(const ModelConfig& c) {
  if (!is_gpt2(c)) return base_init(c);
  return Init::normal(static_cast<float>(c.init_std / std::sqrt(2.0 * static_cast<double>(c.num_layers))));
}

CausalSelfAttention::Options attention_options(const ModelConfig& c, std::shared_ptr<RopeTables> rope) {
  CausalSelfAttention::Options o;
  o.C = c.hidden_size;
  o.N = c.num_heads;
  o.K = c.num_kv_heads;
  o.H = c.head_dim;
  o.qkv_bias = is_gpt2(c) || c.qkv_bias;
  o.out_bias = is_gpt2(c);
  o.qk_norm = c.qk_norm;
  o.qk_norm_eps = c.norm_eps;
  o.init = base_init(c);
  o.out_init = residual_init(c);
  o.rope = std::move(rope);
  o.long_rows = c.long_rows;
  return o;
}

std::unique_ptr<Mlp> make_mlp(std::vector<ParamSpec>& params, const std::string& name, const ModelConfig& c) {
  const MlpOptions options{c.hidden_size, c.ffn_size, base_init(c), residual_init(c), c.long_rows};
  if (is_gpt2(c)) return std::make_unique<GeluMlp>(params, name, options);
  return std::make_unique<SwigluMlp>(params, name, options);
}

}  // namespace

EmbeddingUnit::EmbeddingUnit(const ModelConfig& c) : positions_(is_gpt2(c)), C_(c.hidden_size) {
  params_.push_back({"embedding.weight", Shape{c.vocab_size, C_}, base_init(c), true});
  if (positions_) params_.push_back({"positions.weight", Shape{c.max_positions, C_}, base_init(c), true});
}

Tensor EmbeddingUnit::forward(const UnitContext& ctx, const Tensor&, Saved*) {
  Tensor y_RC = ctx.activation({ctx.batch.B * ctx.batch.T, C_}, "embedding");
  kernels::embedding_forward({.tokens_R = ctx.batch.tokens_R,
                              .wte_VC = ctx.params[0],
                              .wpe_TC = positions_ ? ctx.params[1] : ConstTensorRef(),
                              .y_RC = y_RC,
                              .T = ctx.batch.T},
                             ctx.stream);
  return y_RC;
}

Tensor EmbeddingUnit::backward(const UnitContext& ctx, const Tensor&, Tensor dy, Saved) {
  if (ctx.frozen) return {};
  kernels::embedding_backward({.tokens_R = ctx.batch.tokens_R,
                               .dy_RC = dy,
                               .dwte_VC = ctx.grads[0],
                               .dwpe_TC = positions_ ? ctx.grads[1] : TensorRef(),
                               .T = ctx.batch.T},
                              ctx.stream);
  return {};
}

BlockUnit::BlockUnit(const ModelConfig& c, std::int64_t layer, std::shared_ptr<RopeTables> rope)
    : name_("layers." + std::to_string(layer)),
      attention_norm_(params_, name_ + ".attn_norm", norm_kind(c), c.hidden_size, c.norm_eps),
      attention_(params_, name_ + ".attn", attention_options(c, std::move(rope))),
      mlp_norm_(params_, name_ + ".mlp_norm", norm_kind(c), c.hidden_size, c.norm_eps),
      mlp_(make_mlp(params_, name_ + ".mlp", c)) {}

Tensor BlockUnit::forward(const UnitContext& ctx, const Tensor& x, Saved* saved) {
  Tensor attended = attention_.forward(ctx, attention_norm_.forward(ctx, x).y_RC, saved);
  Normed normed = mlp_norm_.forward_residual(ctx, x, attended, attended);
  const TensorRef s_RC = attended;
  if (saved != nullptr) saved->push_back(std::move(attended));  // its address stays
  Tensor y_RC = mlp_->forward(ctx, normed.y_RC, saved);
  kernels::add({.a = s_RC, .b = y_RC, .y = y_RC}, ctx.stream);
  return y_RC;
}

Tensor BlockUnit::backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) {
  {
    const Tensor dpre = mlp_->backward_core(ctx, dy, saved);
    const Tensor s_RC = pop(saved);
    const Normed normed = mlp_norm_.forward(ctx, s_RC);
    mlp_->backward_projection(ctx, dpre, normed.y_RC, normed.y_RC);
    mlp_norm_.backward(ctx, normed.y_RC, s_RC, normed, dy, dy);  // dy: now the gradient of s
  }
  const Tensor dqkv_RD = attention_.backward_core(ctx, dy, saved);
  const Normed normed = attention_norm_.forward(ctx, x);
  attention_.backward_projection(ctx, dqkv_RD, normed.y_RC, normed.y_RC);
  attention_norm_.backward(ctx, normed.y_RC, x, normed, dy, dy);
  return dy;
}

HeadUnit::HeadUnit(const ModelConfig& c)
    : norm_(params_, "final_norm", norm_kind(c), c.hidden_size, c.norm_eps),
      tied_(c.tie_embeddings),
      weight_(params_.size()),
      V_(c.vocab_size) {
  if (!tied_) params_.push_back({"head.weight", Shape{V_, c.hidden_size}, base_init(c), true});
}

std::vector<SharedParam> HeadUnit::shared() const {
  if (!tied_) return {};
  return {SharedParam{0, 0}};
}

std::int64_t logit_chunk_rows(std::int64_t V, const Device& device) {
  const std::int64_t bytes = std::int64_t{device.has_separate_memory() ? 512 : 32} << 20;
  constexpr std::int64_t kMultiple = 64;  // of the GEMM's tiles
  return std::max(kMultiple, bytes / 4 / V / kMultiple * kMultiple);
}

void HeadUnit::loss(const UnitContext& ctx, const Tensor& x, TensorRef loss_R) {
  const std::int64_t R = x.shape()[0];
  const Normed normed = norm_.forward(ctx, x);
  const std::int64_t chunk = std::min(R, logit_chunk_rows(V_, ctx.stream.device()));
  const Tensor logits = ctx.workspace(DType::f32, {chunk, V_}, "logits");
  for (std::int64_t first = 0; first < R; first += chunk) {
    const std::int64_t rows = std::min(chunk, R - first);
    const TensorRef logits_RV = logits.ref().rows(0, rows);
    kernels::linear_forward(
        {.x_RI = normed.y_RC.ref().rows(first, rows), .w_OI = ctx.params[weight_], .b_O = {}, .y_RO = logits_RV}, ctx.stream);
    kernels::cross_entropy({.logits_RV = logits_RV,
                            .targets_R = ctx.batch.targets_R.rows(first, rows),
                            .loss_R = loss_R.rows(first, rows),
                            .dlogits_RV = {}},
                           ctx.stream);
  }
}

Tensor HeadUnit::loss_and_backward(const UnitContext& ctx, const Tensor& x, TensorRef loss_R, float scale) {
  const std::int64_t R = x.shape()[0];
  const Normed normed = norm_.forward(ctx, x);
  const std::int64_t chunk = std::min(R, logit_chunk_rows(V_, ctx.stream.device()));
  const Tensor logits = ctx.workspace(DType::f32, {chunk, V_}, "logits");
  Tensor narrow;
  if (ctx.compute_dtype != DType::f32) narrow = ctx.workspace(ctx.compute_dtype, {chunk, V_}, "gradient of logits");
  Tensor dx_RC = ctx.activation(x.shape(), "gradient of head input");
  for (std::int64_t first = 0; first < R; first += chunk) {
    const std::int64_t rows = std::min(chunk, R - first);
    const ConstTensorRef h_RC = normed.y_RC.ref().rows(first, rows);
    const TensorRef logits_RV = logits.ref().rows(0, rows);
    const TensorRef dlogits_RV = narrow ? narrow.ref().rows(0, rows) : logits_RV;
    kernels::linear_forward({.x_RI = h_RC, .w_OI = ctx.params[weight_], .b_O = {}, .y_RO = logits_RV}, ctx.stream);
    kernels::cross_entropy({.logits_RV = logits_RV,
                            .targets_R = ctx.batch.targets_R.rows(first, rows),
                            .loss_R = loss_R.rows(first, rows),
                            .dlogits_RV = dlogits_RV,
                            .scale = scale},
                           ctx.stream);
    if (!ctx.frozen)
      kernels::linear_backward_weight({.dy_RO = dlogits_RV, .x_RI = h_RC, .dw_OI = ctx.grads[weight_], .db_O = {}}, ctx.stream);
    kernels::linear_backward_input({.dy_RO = dlogits_RV, .w_OI = ctx.params[weight_], .dx_RI = dx_RC.ref().rows(first, rows)},
                                   ctx.stream);
  }
  norm_.backward(ctx, dx_RC, x, normed, {}, dx_RC);
  return dx_RC;
}

Tensor HeadUnit::logits(const UnitContext& ctx, TensorRef x_rows) {
  const Normed normed = norm_.forward(ctx, x_rows);
  Tensor logits = ctx.activation(DType::f32, {x_rows.shape[0], V_}, "logits");
  kernels::linear_forward({.x_RI = normed.y_RC, .w_OI = ctx.params[weight_], .b_O = {}, .y_RO = logits}, ctx.stream);
  return logits;
}

Result<std::unique_ptr<Model>> make_model(const ModelConfig& config) {
  STRATA_RETURN_IF_ERROR(config.validate());
  std::shared_ptr<RopeTables> rope;
  if (!is_gpt2(config))
    rope = std::make_shared<RopeTables>(config.head_dim, config.rope_theta, config.rope_scaling, config.max_positions);
  std::vector<std::unique_ptr<BodyUnit>> body;
  body.push_back(std::make_unique<EmbeddingUnit>(config));
  for (std::int64_t i = 0; i < config.num_layers; ++i) body.push_back(std::make_unique<BlockUnit>(config, i, rope));
  return std::make_unique<Model>(std::move(body), std::make_unique<HeadUnit>(config), config.vocab_size, config.max_positions);
}

}  // namespace strata
