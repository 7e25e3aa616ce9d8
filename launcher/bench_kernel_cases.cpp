#include <algorithm>

#include "launcher/bench_kernels.h"
#include "runtime/gpu/kernel_table.h"
#include "runtime/kernels/activation.h"
#include "runtime/kernels/cross_entropy.h"
#include "runtime/kernels/elementwise.h"
#include "runtime/kernels/embedding.h"
#include "runtime/kernels/norm.h"
#include "runtime/kernels/rope.h"

namespace strata {
namespace {

// Rows of logits at a time: all of a micro-batch would take gigabytes.
constexpr std::int64_t kMostLogitRows = 2048;

template <class... Tensors>
double bytes_of(const Tensors&... tensors) {
  return (0.0 + ... + static_cast<double>(tensors.bytes()));
}

class Cases {
 public:
  explicit Cases(const KernelShapes& s)
      : dtype_(s.dtype),
        T_(s.T),
        R_(s.B * s.T),
        C_(s.model.hidden_size),
        N_(s.model.num_heads),
        K_(s.model.num_kv_heads),
        H_(s.model.head_dim),
        F_(s.model.ffn_size),
        V_(s.model.vocab_size),
        D_((N_ + 2 * K_) * H_) {}

  std::vector<KernelCase> all(const Device& device) const {
    std::vector<KernelCase> cases;
    const auto put = [&](const char* name, auto prepare) {
      cases.push_back({name, [self = *this, prepare](TensorSet& t, StreamRef stream) { return prepare(self, t, stream); }});
    };
    using Self = const Cases&;
    using Set = TensorSet&;
    put("embedding forward", [](Self c, Set t, StreamRef s) { return c.embedding_forward(t, s); });
    put("embedding backward", [](Self c, Set t, StreamRef s) { return c.embedding_backward(t, s); });
    put("layernorm forward", [](Self c, Set t, StreamRef s) { return c.norm_forward(t, s, true); });
    put("layernorm backward", [](Self c, Set t, StreamRef s) { return c.norm_backward(t, s, true); });
    put("rmsnorm forward", [](Self c, Set t, StreamRef s) { return c.norm_forward(t, s, false); });
    put("rmsnorm backward", [](Self c, Set t, StreamRef s) { return c.norm_backward(t, s, false); });
    put("head norm forward", [](Self c, Set t, StreamRef s) { return c.head_norm_forward(t, s); });
    put("head norm backward", [](Self c, Set t, StreamRef s) { return c.head_norm_backward(t, s); });
    put("rope", [](Self c, Set t, StreamRef s) { return c.rope(t, s); });
    put("gelu forward", [](Self c, Set t, StreamRef s) { return c.gelu_forward(t, s); });
    put("gelu backward", [](Self c, Set t, StreamRef s) { return c.gelu_backward(t, s); });
    put("swiglu forward", [](Self c, Set t, StreamRef s) { return c.swiglu_forward(t, s); });
    put("swiglu backward", [](Self c, Set t, StreamRef s) { return c.swiglu_backward(t, s); });
    put("cross-entropy", [](Self c, Set t, StreamRef s) { return c.cross_entropy(t, s); });
    put("add", [](Self c, Set t, StreamRef s) { return c.add(t, s); });
    put("cast f32 to bf16", [](Self c, Set t, StreamRef s) { return c.cast(t, s, DType::f32, DType::bf16); });
    put("cast bf16 to f32", [](Self c, Set t, StreamRef s) { return c.cast(t, s, DType::bf16, DType::f32); });
    put("sum of squares", [](Self c, Set t, StreamRef s) { return c.sum_squares(t, s); });
    put("cast with sum of squares", [](Self c, Set t, StreamRef s) { return c.round_and_sum_squares(t, s); });
    // On the host the tiles of linear_backward_weight's product and the sums are one operation.
    if (device.has_separate_memory()) put("bias column sums", [](Self c, Set t, StreamRef s) { return c.column_sums(t, s); });
    return cases;
  }

 private:
  // Read: tokens, a row of the table for every different token (others are in a cache), positions. Written: y.
  KernelRun embedding_forward(TensorSet& t, StreamRef stream) const {
    std::int64_t distinct = 0;
    const TensorRef tokens = t.indices({R_}, V_, &distinct);
    const TensorRef wte = t.filled(dtype_, {V_, C_}, 0.04f), wpe = t.filled(dtype_, {T_, C_}, 0.04f);
    const TensorRef y = t.zeros(dtype_, {R_, C_});
    return {bytes_of(tokens, wpe, y) + static_cast<double>(distinct) * row_bytes(wte), [=, T = T_] {
              kernels::embedding_forward({.tokens_R = tokens, .wte_VC = wte, .wpe_TC = wpe, .y_RC = y, .T = T}, stream);
            }};
  }
  // Read: tokens, dy. Read and written: the rows of the different tokens, and of the positions, in f32.
  KernelRun embedding_backward(TensorSet& t, StreamRef stream) const {
    std::int64_t distinct = 0;
    const TensorRef tokens = t.indices({R_}, V_, &distinct);
    const TensorRef dy = t.filled(dtype_, {R_, C_}, 1e-3f);
    const TensorRef dwte = t.zeros(DType::f32, {V_, C_}), dwpe = t.zeros(DType::f32, {T_, C_});
    return {bytes_of(tokens, dy, dwpe, dwpe) + 2.0 * static_cast<double>(distinct) * row_bytes(dwte), [=, T = T_] {
              kernels::embedding_backward({.tokens_R = tokens, .dy_RC = dy, .dwte_VC = dwte, .dwpe_TC = dwpe, .T = T}, stream);
            }};
  }
  // Read: x, residual, weights. Written: sum, y, statistics.
  KernelRun norm_forward(TensorSet& t, StreamRef stream, bool layer) const {
    const TensorRef x = t.filled(dtype_, {R_, C_}, 2.0f), residual = t.filled(dtype_, {R_, C_}, 2.0f);
    const TensorRef sum = t.zeros(dtype_, {R_, C_}), y = t.zeros(dtype_, {R_, C_});
    const TensorRef w = t.filled(dtype_, {C_}, 0.1f, 1.0f), b = layer ? t.filled(dtype_, {C_}, 0.1f) : TensorRef();
    const TensorRef mean = layer ? t.zeros(DType::f32, {R_}) : TensorRef(), rstd = t.zeros(DType::f32, {R_});
    const kernels::NormForwardArgs args = {.x_RC = x,
                                           .residual_RC = residual,
                                           .sum_RC = sum,
                                           .w_C = w,
                                           .b_C = layer ? ConstTensorRef(b) : ConstTensorRef(),
                                           .y_RC = y,
                                           .mean_R = mean,
                                           .rstd_R = rstd};
    return {bytes_of(x, residual, sum, y, w, rstd) + (layer ? bytes_of(b, mean) : 0.0),
            [=] { layer ? kernels::layernorm_forward(args, stream) : kernels::rmsnorm_forward(args, stream); }};
  }
  // Read: dy, s, dresidual, statistics, weights. Written: dx. Read and written: dw, db.
  KernelRun norm_backward(TensorSet& t, StreamRef stream, bool layer) const {
    const TensorRef dy = t.filled(dtype_, {R_, C_}, 1e-3f), s = t.filled(dtype_, {R_, C_}, 2.0f);
    const TensorRef dresidual = t.filled(dtype_, {R_, C_}, 1e-3f), dx = t.zeros(dtype_, {R_, C_});
    const TensorRef w = t.filled(dtype_, {C_}, 0.1f, 1.0f);
    const TensorRef mean = layer ? t.zeros(DType::f32, {R_}) : TensorRef(), rstd = t.filled(DType::f32, {R_}, 0.1f, 1.0f);
    const TensorRef dw = t.zeros(DType::f32, {C_}), db = layer ? t.zeros(DType::f32, {C_}) : TensorRef();
    const kernels::NormBackwardArgs args = {.dy_RC = dy,
                                            .s_RC = s,
                                            .w_C = w,
                                            .mean_R = layer ? ConstTensorRef(mean) : ConstTensorRef(),
                                            .rstd_R = rstd,
                                            .dresidual_RC = dresidual,
                                            .dx_RC = dx,
                                            .dw_C = dw,
                                            .db_C = db};
    return {bytes_of(dy, s, dresidual, dx, w, rstd, dw, dw) + (layer ? bytes_of(mean, db, db) : 0.0),
            [=] { layer ? kernels::layernorm_backward(args, stream) : kernels::rmsnorm_backward(args, stream); }};
  }
  // Read: all of qkv. Written: all of it again, and a factor a head.
  KernelRun head_norm_forward(TensorSet& t, StreamRef stream) const {
    const TensorRef in = t.filled(dtype_, {R_, D_}, 2.0f), out = t.zeros(dtype_, {R_, D_});
    const TensorRef wq = t.filled(dtype_, {H_}, 0.1f, 1.0f), wk = t.filled(dtype_, {H_}, 0.1f, 1.0f);
    const TensorRef rstd = t.zeros(DType::f32, {R_, N_ + K_});
    const kernels::HeadNormForwardArgs args = {
        .in_RD = in, .wq_H = wq, .wk_H = wk, .out_RD = out, .rstd_RM = rstd, .N = N_, .K = K_, .H = H_};
    return {bytes_of(in, out, rstd), [=] { kernels::head_rmsnorm_forward(args, stream); }};
  }
  // Read: gradient and input of the query and key heads, a factor a head. Written: the gradient, in place. Values stay. Called
  // again and again the gradient neither grows nor fades, for heads of signs have the length 1.
  KernelRun head_norm_backward(TensorSet& t, StreamRef stream) const {
    const TensorRef dqkv = t.filled(dtype_, {R_, D_}, 1e-3f), in = t.signs(dtype_, {R_, D_});
    const TensorRef wq = t.filled(dtype_, {H_}, 0.0f, 1.0f), wk = t.filled(dtype_, {H_}, 0.0f, 1.0f);
    const TensorRef rstd = t.filled(DType::f32, {R_, N_ + K_}, 0.0f, 1.0f);
    const TensorRef dwq = t.zeros(DType::f32, {H_}), dwk = t.zeros(DType::f32, {H_});
    const kernels::HeadNormBackwardArgs args = {.dqkv_RD = dqkv,
                                                .in_RD = in,
                                                .wq_H = wq,
                                                .wk_H = wk,
                                                .rstd_RM = rstd,
                                                .dwq_H = dwq,
                                                .dwk_H = dwk,
                                                .N = N_,
                                                .K = K_,
                                                .H = H_};
    return {3.0 * heads_bytes() + bytes_of(rstd), [=] { kernels::head_rmsnorm_backward(args, stream); }};
  }
  // Read and written in place: the query and key heads. Read: the tables.
  KernelRun rope(TensorSet& t, StreamRef stream) const {
    const TensorRef qkv = t.filled(dtype_, {R_, D_}, 2.0f);
    const TensorRef cosine = t.filled(DType::f32, {T_, H_ / 2}, 0.0f, 0.8f),
                    sine = t.filled(DType::f32, {T_, H_ / 2}, 0.0f, 0.6f);
    const kernels::RopeArgs args = {.qkv_RD = qkv, .cos_TH2 = cosine, .sin_TH2 = sine, .T = T_, .N = N_, .K = K_, .H = H_};
    return {2.0 * heads_bytes() + bytes_of(cosine, sine), [=] { kernels::rope_apply(args, stream); }};
  }
  KernelRun gelu_forward(TensorSet& t, StreamRef stream) const {
    const TensorRef x = t.filled(dtype_, {R_, F_}, 4.0f), y = t.zeros(dtype_, {R_, F_});
    return {bytes_of(x, y), [=] { kernels::gelu_forward({.x = x, .y = y}, stream); }};
  }
  KernelRun gelu_backward(TensorSet& t, StreamRef stream) const {
    const TensorRef x = t.filled(dtype_, {R_, F_}, 4.0f), dy = t.filled(dtype_, {R_, F_}, 1e-3f);
    const TensorRef dx = t.zeros(dtype_, {R_, F_});
    return {bytes_of(x, dy, dx), [=] { kernels::gelu_backward({.x = x, .dy = dy, .dx = dx}, stream); }};
  }
  KernelRun swiglu_forward(TensorSet& t, StreamRef stream) const {
    const TensorRef gate_up = t.filled(dtype_, {R_, 2 * F_}, 4.0f), y = t.zeros(dtype_, {R_, F_});
    return {bytes_of(gate_up, y), [=] { kernels::swiglu_forward({.gate_up_RG = gate_up, .y_RF = y}, stream); }};
  }
  KernelRun swiglu_backward(TensorSet& t, StreamRef stream) const {
    const TensorRef gate_up = t.filled(dtype_, {R_, 2 * F_}, 4.0f), dy = t.filled(dtype_, {R_, F_}, 1e-3f);
    const TensorRef dgate_up = t.zeros(dtype_, {R_, 2 * F_});
    return {bytes_of(gate_up, dy, dgate_up),
            [=] { kernels::swiglu_backward({.gate_up_RG = gate_up, .dy_RF = dy, .dgate_up_RG = dgate_up}, stream); }};
  }
  // Read: logits, once (a row is short enough for a cache), targets. Written: the gradient of the logits, the loss.
  KernelRun cross_entropy(TensorSet& t, StreamRef stream) const {
    const std::int64_t rows = std::min(R_, kMostLogitRows);
    const TensorRef logits = t.filled(DType::f32, {rows, V_}, 8.0f), dlogits = t.zeros(dtype_, {rows, V_});
    const TensorRef targets = t.indices({rows}, V_), loss = t.zeros(DType::f32, {rows});
    const kernels::CrossEntropyArgs args = {
        .logits_RV = logits, .targets_R = targets, .loss_R = loss, .dlogits_RV = dlogits, .scale = 1e-3f};
    return {bytes_of(logits, targets, dlogits, loss), [=] { kernels::cross_entropy(args, stream); }};
  }
  KernelRun add(TensorSet& t, StreamRef stream) const {
    const TensorRef a = t.filled(dtype_, {R_, C_}, 2.0f), b = t.filled(dtype_, {R_, C_}, 2.0f);
    const TensorRef y = t.zeros(dtype_, {R_, C_});
    return {bytes_of(a, b, y), [=] { kernels::add({.a = a, .b = b, .y = y}, stream); }};
  }
  KernelRun cast(TensorSet& t, StreamRef stream, DType from, DType to) const {
    const TensorRef x = t.filled(from, {R_, C_}, 2.0f), y = t.zeros(to, {R_, C_});
    return {bytes_of(x, y), [=] { kernels::cast({.x = x, .y = y}, stream); }};
  }
  // Read: the values, f32. Written: 8 bytes for every 4096 of them.
  KernelRun sum_squares(TensorSet& t, StreamRef stream) const {
    const std::int64_t n = R_ * C_, blocks = (n + kernels::kNormBlock - 1) / kernels::kNormBlock;
    const TensorRef x = t.filled(DType::f32, {n}, 1e-3f), partials = t.zeros(DType::f32, {2 * blocks});  // doubles
    return {bytes_of(x, partials), [=] {
              kernels::sum_squares_blocks({.x = x.as<float>(), .n = n, .partials = reinterpret_cast<double*>(partials.data)},
                                          stream);
            }};
  }
  // Read: the values, f32. Written: the same in bf16, and as sum_squares.
  KernelRun round_and_sum_squares(TensorSet& t, StreamRef stream) const {
    const std::int64_t n = R_ * C_, blocks = (n + kernels::kNormBlock - 1) / kernels::kNormBlock;
    const TensorRef x = t.filled(DType::f32, {n}, 1e-3f), y = t.zeros(DType::bf16, {n});
    const TensorRef partials = t.zeros(DType::f32, {2 * blocks});  // doubles
    return {bytes_of(x, y, partials), [=] {
              kernels::round_and_sum_squares(
                  {.x = x.as<float>(), .y = y.as<bf16>(), .n = n, .partials = reinterpret_cast<double*>(partials.data)},
                  stream);
            }};
  }
  // Read: dy. Written: a sum a column.
  KernelRun column_sums(TensorSet& t, StreamRef stream) const {
    const TensorRef dy = t.filled(dtype_, {R_, C_}, 1e-3f), sums = t.zeros(DType::f32, {C_});
    return {bytes_of(dy, sums), [=, R = R_, C = C_] {
              stream.device().gpu().kernels().column_sums(dy.data, dy.dtype, R, C, false, sums.as<float>(), stream.queue());
            }};
  }

  double heads_bytes() const { return static_cast<double>(R_ * (N_ + K_) * H_) * static_cast<double>(size_of(dtype_)); }
  static double row_bytes(const TensorRef& table) {
    return static_cast<double>(table.shape[1]) * static_cast<double>(size_of(table.dtype));
  }

  DType dtype_;
  std::int64_t T_, R_, C_, N_, K_, H_, F_, V_, D_;
};

}  // namespace

std::vector<KernelCase> kernel_cases(const KernelShapes& shapes, const Device& device) { return Cases(shapes).all(device); }

}  // namespace strata
