#include "model/attention.h"

#include <algorithm>
#include <cmath>

#include "runtime/kernels/attention.h"
#include "runtime/kernels/norm.h"

namespace strata {

RopeTables::RopeTables(std::int64_t H, double theta, const kernels::RopeScaling& scaling, std::int64_t max_positions)
    : inverse_frequencies_(kernels::rope_inverse_frequencies(H, theta, scaling)), max_positions_(max_positions) {}

void RopeTables::prepare(StreamRef stream, TierArena& arena, std::int64_t T) {
  STRATA_CHECK(T <= max_positions_, "a sequence longer than the model's positions");
  // A dry run leaves tables that hold nothing, and another run has its own budget.
  const bool same_run = cos_TH2_.is_from(arena);
  if (rows_ >= T && same_run) return;
  const std::int64_t rows = same_run ? std::min(std::max(T, 2 * rows_), max_positions_) : T;
  rows_ = 0;  // in case there is no memory
  const Shape shape{rows, static_cast<std::int64_t>(inverse_frequencies_.size())};
  cos_TH2_.reset();
  sin_TH2_.reset();
  cos_TH2_ = Tensor(arena, Category::other, DType::f32, shape, "rotary cos");
  sin_TH2_ = Tensor(arena, Category::other, DType::f32, shape, "rotary sin");
  fill(stream, rows);
  filled_ = stream.record();
  rows_ = rows;
}

// On a GPU the tables come from the host, which waits for the copy: this happens before the first batch.
void RopeTables::fill(StreamRef stream, std::int64_t rows) const {
  const TensorRef cos = cos_TH2_.ref(), sin = sin_TH2_.ref();
  if (stream.on_gpu()) {
    std::vector<float> host_cos(static_cast<std::size_t>(cos.numel())), host_sin(host_cos.size());
    kernels::rope_tables(rows, inverse_frequencies_, host_cos.data(), host_sin.data());
    copy_async(host_cos.data(), cos.data, cos.bytes(), stream);
    copy_async(host_sin.data(), sin.data, sin.bytes(), stream);
    throw_if_error(stream.synchronize().with_context("rotary tables"));
    return;
  }
  stream.enqueue("rope_tables", [rows, frequencies = inverse_frequencies_, cos, sin] {
    kernels::rope_tables(rows, frequencies, cos.as<float>(), sin.as<float>());
    return Status();
  });
}

RopeTables::View RopeTables::get(const UnitContext& ctx, std::int64_t T) {
  prepare(ctx.stream, ctx.arena, T);
  ctx.stream.wait(filled_);
  return {cos_TH2_, sin_TH2_};
}

CausalSelfAttention::CausalSelfAttention(std::vector<ParamSpec>& params, const std::string& name, const Options& options)
    : options_(options),
      qkv_(params, name + ".qkv",
           {.in = options.C,
            .out = (options.N + 2 * options.K) * options.H,
            .bias = options.qkv_bias,
            .init = options.init,
            .parts = {options.N * options.H, options.K * options.H, options.K * options.H}}),
      out_(params, name + ".out",
           {.in = options.N * options.H,
            .out = options.C,
            .bias = options.out_bias,
            .init = options.out_init,
            .transposed = lies_along_input(options.long_rows, options.N * options.H, options.C)}),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(options.H)))) {
  if (!options.qk_norm) return;
  q_norm_ = params.size();
  params.push_back({name + ".q_norm.weight", Shape{options.H}, Init::constant(1.0f), false});
  params.push_back({name + ".k_norm.weight", Shape{options.H}, Init::constant(1.0f), false});
}

void CausalSelfAttention::prepare(StreamRef stream, TierArena& arena, std::int64_t T) const {
  if (options_.rope) options_.rope->prepare(stream, arena, T);
  const kernels::AttentionShape shape = {.B = 1, .T = T, .N = options_.N, .K = options_.K, .H = options_.H, .scale = scale_};
  throw_if_error(kernels::prepare_attention(shape, stream));
}

void CausalSelfAttention::rotate(const UnitContext& ctx, const TensorRef& qkv_RD, bool inverse) const {
  if (!options_.rope) return;
  const RopeTables::View tables = options_.rope->get(ctx, ctx.batch.T);
  kernels::rope_apply({.qkv_RD = qkv_RD,
                       .cos_TH2 = tables.cos_TH2,
                       .sin_TH2 = tables.sin_TH2,
                       .T = ctx.batch.T,
                       .N = options_.N,
                       .K = options_.K,
                       .H = options_.H,
                       .inverse = inverse},
                      ctx.stream);
}

CausalSelfAttention::NormedHeads CausalSelfAttention::normalise_heads(const UnitContext& ctx, const Tensor& qkv_RD) const {
  NormedHeads out;
  if (!options_.qk_norm) return out;
  out.qkv_RD = ctx.activation(qkv_RD.shape(), "normalised qkv");
  out.rstd_RM = ctx.activation(DType::f32, {qkv_RD.shape()[0], options_.N + options_.K}, "head norm rstd");
  kernels::head_rmsnorm_forward({.in_RD = qkv_RD,
                                 .wq_H = ctx.params[q_norm_],
                                 .wk_H = ctx.params[q_norm_ + 1],
                                 .out_RD = out.qkv_RD,
                                 .rstd_RM = out.rstd_RM,
                                 .N = options_.N,
                                 .K = options_.K,
                                 .H = options_.H,
                                 .eps = static_cast<float>(options_.qk_norm_eps)},
                                ctx.stream);
  rotate(ctx, out.qkv_RD, false);
  return out;
}

void CausalSelfAttention::backward_heads(const UnitContext& ctx, const Tensor& qkv_RD, const Tensor& rstd_RM,
                                         const Tensor& dqkv_RD) const {
  rotate(ctx, dqkv_RD, true);
  if (!options_.qk_norm) return;
  kernels::head_rmsnorm_backward({.dqkv_RD = dqkv_RD,
                                  .in_RD = qkv_RD,
                                  .wq_H = ctx.params[q_norm_],
                                  .wk_H = ctx.params[q_norm_ + 1],
                                  .rstd_RM = rstd_RM,
                                  .dwq_H = ctx.grads[q_norm_],
                                  .dwk_H = ctx.grads[q_norm_ + 1],
                                  .N = options_.N,
                                  .K = options_.K,
                                  .H = options_.H},
                                 ctx.stream);
}

Tensor CausalSelfAttention::forward(const UnitContext& ctx, const ConstTensorRef& x_RC, Saved* saved) const {
  const Batch& batch = ctx.batch;
  Tensor qkv_RD = qkv_.forward(ctx, x_RC, "qkv");
  if (!options_.qk_norm) rotate(ctx, qkv_RD, false);
  Tensor o_RE = ctx.activation({x_RC.shape[0], options_.N * options_.H}, "attention output");
  Tensor lse_BNT = ctx.activation(DType::f32, {batch.B, options_.N, batch.T}, "attention lse");
  {
    const NormedHeads heads = normalise_heads(ctx, qkv_RD);
    kernels::attention_forward({.qkv_RD = options_.qk_norm ? heads.qkv_RD : qkv_RD,
                                .o_RE = o_RE,
                                .lse_BNT = lse_BNT,
                                .B = batch.B,
                                .T = batch.T,
                                .N = options_.N,
                                .K = options_.K,
                                .H = options_.H,
                                .scale = scale_},
                               ctx.stream);
  }
  if (saved == nullptr) {
    qkv_RD.reset();
    lse_BNT.reset();
    return out_.forward(ctx, o_RE, "attention projection");
  }
  Tensor y_RC = out_.forward(ctx, o_RE, "attention projection");
  saved->push_back(std::move(qkv_RD));
  saved->push_back(std::move(o_RE));
  saved->push_back(std::move(lse_BNT));
  return y_RC;
}

Tensor CausalSelfAttention::backward_core(const UnitContext& ctx, const ConstTensorRef& dy_RC, Saved& saved) const {
  const Batch& batch = ctx.batch;
  const Tensor lse_BNT = pop(saved);
  Tensor o_RE = pop(saved);
  const Tensor qkv_RD = pop(saved);
  out_.backward_weight(ctx, dy_RC, o_RE);
  Tensor do_RE = ctx.activation(o_RE.shape(), "gradient of attention output");
  out_.backward_input(ctx, dy_RC, do_RE);
  Tensor dqkv_RD = ctx.activation(qkv_RD.shape(), "gradient of qkv");
  NormedHeads heads = normalise_heads(ctx, qkv_RD);
  {
    kernels::AttentionBackwardArgs args = {.qkv_RD = options_.qk_norm ? heads.qkv_RD : qkv_RD,
                                           .o_RE = o_RE,
                                           .do_RE = do_RE,
                                           .lse_BNT = lse_BNT,
                                           .dqkv_RD = dqkv_RD,
                                           .B = batch.B,
                                           .T = batch.T,
                                           .N = options_.N,
                                           .K = options_.K,
                                           .H = options_.H,
                                           .scale = scale_,
                                           .scratch_SW = {}};
    const Shape scratch = kernels::attention_backward_scratch(args, ctx.stream.device());
    const Tensor scratch_SW = ctx.workspace(DType::f32, scratch, "scratch of attention backward");
    args.scratch_SW = scratch_SW;
    kernels::attention_backward(args, ctx.stream);
  }
  backward_heads(ctx, qkv_RD, heads.rstd_RM, dqkv_RD);
  return dqkv_RD;
}

void CausalSelfAttention::backward_projection(const UnitContext& ctx, const ConstTensorRef& dqkv_RD, const ConstTensorRef& x_RC,
                                              const TensorRef& dx_RC) const {
  qkv_.backward_weight(ctx, dqkv_RD, x_RC);
  qkv_.backward_input(ctx, dqkv_RD, dx_RC);
}

}  // namespace strata
