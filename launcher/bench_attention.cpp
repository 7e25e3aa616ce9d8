// `strata bench attention`: causal attention, forward and backward, through the kernels of training.
#include <cmath>

#include "launcher/bench.h"
#include "launcher/bench_device.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "runtime/kernels/attention.h"
#include "trainer/stream_timer.h"
#include "trainer/workbench.h"

namespace strata {
namespace {

class Attention {
 public:
  Attention(Workbench& bench, const BenchOptions& o)
      : bench_(bench), tensors_(bench), B_(o.batch), T_(o.seq_length), N_(o.heads), K_(o.kv_heads), H_(o.head_dim) {
    const DType dtype = o.precision == "bf16" ? DType::bf16 : DType::f32;
    const std::int64_t R = B_ * T_, D = (N_ + 2 * K_) * H_, E = N_ * H_;
    qkv_RD_ = tensors_.filled(dtype, {R, D}, 2.0f);
    o_RE_ = tensors_.zeros(dtype, {R, E});
    lse_BNT_ = tensors_.zeros(DType::f32, {B_, N_, T_});
    do_RE_ = tensors_.filled(dtype, {R, E}, 1e-2f);
    dqkv_RD_ = tensors_.zeros(dtype, {R, D});
    scratch_SW_ = tensors_.zeros(DType::f32, kernels::attention_backward_scratch(backward_args(), bench.device()));
  }
  void forward() const {
    kernels::attention_forward(
        {.qkv_RD = qkv_RD_, .o_RE = o_RE_, .lse_BNT = lse_BNT_, .B = B_, .T = T_, .N = N_, .K = K_, .H = H_, .scale = scale()},
        bench_.stream());
  }
  void backward() const { kernels::attention_backward(backward_args(), bench_.stream()); }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(H_)); }
  kernels::AttentionBackwardArgs backward_args() const {
    return {.qkv_RD = qkv_RD_,
            .o_RE = o_RE_,
            .do_RE = do_RE_,
            .lse_BNT = lse_BNT_,
            .dqkv_RD = dqkv_RD_,
            .B = B_,
            .T = T_,
            .N = N_,
            .K = K_,
            .H = H_,
            .scale = scale(),
            .scratch_SW = scratch_SW_};
  }

  Workbench& bench_;
  TensorSet tensors_;
  std::int64_t B_, T_, N_, K_, H_;
  TensorRef qkv_RD_, o_RE_, lse_BNT_, do_RE_, dqkv_RD_, scratch_SW_;
};

Status bench_attention(const BenchOptions& given) {
  BenchOptions o = given;
  if (o.kv_heads == 0) o.kv_heads = o.heads;
  if (o.heads % o.kv_heads != 0)
    return {Code::invalid_config, "bench attention: --heads " + std::to_string(o.heads) + " is no multiple of --kv-heads " +
                                      std::to_string(o.kv_heads)};
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(o.device));
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) { const Attention attention(bench, o); });
  STRATA_RETURN_IF_ERROR(require_memory(device->has_separate_memory() ? 0 : needed.gpu, "bench attention"));
  Workbench bench(*device, needed);
  const Attention attention(bench, o);

  // A product of scores or values is 2 B N T^2 H, and the causal half of it is asked for. Forward has two of them, backward
  // five (Dao 2023): what masked tiles cost beyond the half is not counted.
  const double product = static_cast<double>(o.batch * o.heads) * static_cast<double>(o.seq_length) *
                         static_cast<double>(o.seq_length) * static_cast<double>(o.head_dim);
  struct Case {
    const char* name;
    double flops;
    StreamTimer timer;
  };
  const Case cases[] = {{"forward", 2.0 * product, {{bench.stream()}, [&] { attention.forward(); }}},
                        {"backward", 5.0 * product, {{bench.stream()}, [&] { attention.backward(); }}},
                        {"forward and backward", 7.0 * product, {{bench.stream()}, [&] {
                                                                   attention.forward();
                                                                   attention.backward();
                                                                 }}}};
  BenchReport report{.benchmark = "attention",
                     .parameters = {{"precision", o.precision},
                                    {"B", std::to_string(o.batch)},
                                    {"T", std::to_string(o.seq_length)},
                                    {"heads", std::to_string(o.heads)},
                                    {"kv_heads", std::to_string(o.kv_heads)},
                                    {"head_dim", std::to_string(o.head_dim)}},
                     .threads = device->threads()};
  for (const Case& c : cases) report.measurements.push_back({.name = c.name, .unit = "FLOP/s"});
  for (int i = 0; i < o.repeats; ++i)
    for (std::size_t k = 0; k < std::size(cases); ++k)
      report.measurements[k].samples.push_back(cases[k].flops / cases[k].timer.sample());
  report.notes.push_back("causal: forward counts 2 B N T^2 H, backward 5 B N T^2 H operations");
  print_report(report, describe_machine(*device), o.json);
  return {};
}

}  // namespace

int run_bench_attention(const BenchOptions& options) { return finish_command(bench_attention(options)); }

}  // namespace strata
