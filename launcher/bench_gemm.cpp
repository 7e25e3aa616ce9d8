// `strata bench gemm`: the matrix products of transformer blocks through the kernels that training uses.
#include <array>
#include <optional>

#include "launcher/bench.h"
#include "launcher/bench_device.h"
#include "launcher/bench_models.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "runtime/kernels/linear.h"
#include "runtime/kernels/peak.h"
#include "trainer/stream_timer.h"
#include "trainer/workbench.h"

namespace strata {
namespace {

// The tensors of one layer and its three products.
class Layer {
 public:
  Layer(Workbench& bench, const LinearShape& shape, std::int64_t R, DType dtype)
      : tensors_(bench),
        x_(tensors_.filled(dtype, {R, shape.in}, 1.0f)),
        w_(tensors_.filled(dtype, {shape.out, shape.in}, 0.02f)),
        y_(tensors_.filled(dtype, {R, shape.out}, 1e-3f)),
        dx_(tensors_.zeros(dtype, {R, shape.in})),
        dw_(tensors_.zeros(DType::f32, {shape.out, shape.in})) {}
  void forward(StreamRef stream) { kernels::linear_forward({.x_RI = x_, .w_OI = w_, .b_O = {}, .y_RO = y_}, stream); }
  void backward_input(StreamRef stream) {
    kernels::linear_backward_input({.dy_RO = y_, .w_OI = w_, .dx_RI = dx_, .accumulate = false}, stream);
  }
  void backward_weight(StreamRef stream) {
    kernels::linear_backward_weight({.dy_RO = y_, .x_RI = x_, .dw_OI = dw_, .db_O = {}, .accumulate = false}, stream);
  }

 private:
  TensorSet tensors_;
  TensorRef x_, w_, y_, dx_, dw_;
};

struct Direction {
  const char* name;
  void (Layer::*run)(StreamRef);
};
constexpr std::array kDirections = {Direction{"forward", &Layer::forward}, Direction{"input gradient", &Layer::backward_input},
                                    Direction{"weight gradient", &Layer::backward_weight}};

double flops_of(const LinearShape& shape, std::int64_t R) {
  return 2.0 * static_cast<double>(R) * static_cast<double>(shape.in) * static_cast<double>(shape.out);
}

// The bound, measured beside every layer: the spread shows how quiet the machine was, and the best of all is the bound. On the
// host what the multiply-add units give; on a GPU, where nothing of ours reaches that, one large square product.
class PeakMeter {
 public:
  PeakMeter(Workbench& bench, const BenchOptions& options, DType dtype) : bench_(bench), dtype_(dtype) {
    peak_.unit = "FLOP/s";
    if (!bench.device().has_separate_memory()) return;
    const LinearShape shape = {"square", options.square, options.square};
    square_.emplace(bench, shape, options.square, dtype);
    flops_ = flops_of(shape, options.square);
    peak_.name = "square product of " + std::to_string(options.square);
    if (!bench.dry()) timer_.emplace(std::vector{bench.stream()}, [this] { square_->forward(bench_.stream()); });
  }
  void sample() {
    if (timer_) {
      peak_.samples.push_back(flops_ / timer_->sample());
      return;
    }
    const kernels::PeakRates rates = kernels::measure_peak(bench_.device().pool());
    const bool bf16_units = dtype_ == DType::bf16 && rates.bf16_gflops > 0.0;
    peak_.name = bf16_units ? "peak of bf16 products" : "peak of f32 multiply-adds";
    peak_.samples.push_back(1e9 * (bf16_units ? rates.bf16_gflops : rates.f32_gflops));
  }
  const Measurement& peak() const { return peak_; }

 private:
  Workbench& bench_;
  DType dtype_;
  std::optional<Layer> square_;
  double flops_ = 0.0;
  std::optional<StreamTimer> timer_;
  Measurement peak_;
};

// FLOP/s of the three products of one layer.
std::vector<Measurement> measure_layer(Workbench& bench, const std::string& model, const LinearShape& shape,
                                       const BenchOptions& options, DType dtype) {
  Layer layer(bench, shape, options.rows, dtype);
  std::vector<Measurement> measurements;
  for (const Direction& direction : kDirections) {
    Measurement m{.name = model + ' ' + shape.name + ", " + direction.name, .unit = "FLOP/s"};
    const StreamTimer timer({bench.stream()}, [&] { (layer.*direction.run)(bench.stream()); });
    for (int i = 0; i < options.repeats; ++i) m.samples.push_back(flops_of(shape, options.rows) / timer.sample());
    measurements.push_back(std::move(m));
  }
  return measurements;
}

Status bench_gemm(const BenchOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const DType dtype = options.precision == "bf16" ? DType::bf16 : DType::f32;
  std::vector<std::pair<std::string, LinearShape>> shapes;
  for (const std::string& model : options.models)
    for (const LinearShape& shape : linear_shapes(bench_model(model, 1))) shapes.emplace_back(model, shape);
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    const PeakMeter meter(bench, options, dtype);
    for (const auto& [model, shape] : shapes) const Layer layer(bench, shape, options.rows, dtype);
  });
  STRATA_RETURN_IF_ERROR(require_memory(device->has_separate_memory() ? 0 : needed.gpu, "bench gemm"));
  Workbench bench(*device, needed);
  BenchReport report{.benchmark = "gemm",
                     .parameters = {{"precision", options.precision}, {"rows", std::to_string(options.rows)}},
                     .threads = device->threads()};
  if (options.device.tf32) report.parameters.emplace_back("tf32", "yes");
  PeakMeter meter(bench, options, dtype);
  for (const auto& [model, shape] : shapes) {
    meter.sample();
    for (Measurement& m : measure_layer(bench, model, shape, options, dtype)) report.measurements.push_back(std::move(m));
  }
  for (Measurement& m : report.measurements) {
    m.bound = statistics(meter.peak().samples).max;
    m.bound_name = meter.peak().name;
  }
  report.measurements.push_back(meter.peak());
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_gemm(const BenchOptions& options) { return finish_command(bench_gemm(options)); }

}  // namespace strata
