// `strata bench gemm`: the matrix products of transformer blocks through the kernels that training uses.
#include <array>

#include "launcher/bench.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "runtime/arena.h"
#include "runtime/kernels/linear.h"
#include "runtime/kernels/peak.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {
namespace {

struct LinearShape {
  const char* model;
  const char* name;
  std::int64_t in, out;
};

// Every linear layer of a block, and the head: GPT-2 124M; a Llama of 1B parameters (C 2048, 32 heads, 8 key heads, F 8192).
constexpr std::array kShapes = {
    LinearShape{"gpt2", "qkv", 768, 2304},      LinearShape{"gpt2", "projection", 768, 768},
    LinearShape{"gpt2", "up", 768, 3072},       LinearShape{"gpt2", "down", 3072, 768},
    LinearShape{"gpt2", "head", 768, 50257},    LinearShape{"llama", "qkv", 2048, 3072},
    LinearShape{"llama", "output", 2048, 2048}, LinearShape{"llama", "gate and up", 2048, 16384},
    LinearShape{"llama", "down", 8192, 2048},
};

// The tensors of one layer and its three products.
class Layer {
 public:
  Layer(TierArena& arena, const LinearShape& shape, std::int64_t R, DType dtype)
      : x_(arena, Category::activations, dtype, {R, shape.in}, "x"),
        w_(arena, Category::parameters, dtype, {shape.out, shape.in}, "w"),
        y_(arena, Category::activations, dtype, {R, shape.out}, "y"),
        dx_(arena, Category::activations, dtype, {R, shape.in}, "dx"),
        dw_(arena, Category::gradients, DType::f32, {shape.out, shape.in}, "dw") {
    fill(x_, 1.0f);
    fill(w_, 0.02f);
    fill(y_, 1e-3f);
  }
  static std::size_t bytes(const LinearShape& s, std::int64_t R, DType dtype) {
    const auto elements = static_cast<std::size_t>(R * (2 * s.in + s.out) + s.in * s.out);
    return elements * size_of(dtype) + static_cast<std::size_t>(s.in * s.out) * sizeof(float) + 5 * TierArena::kAlignment;
  }
  void forward(StreamRef stream) { kernels::linear_forward({.x_RI = x_, .w_OI = w_, .b_O = {}, .y_RO = y_}, stream); }
  void backward_input(StreamRef stream) {
    kernels::linear_backward_input({.dy_RO = y_, .w_OI = w_, .dx_RI = dx_, .accumulate = false}, stream);
  }
  void backward_weight(StreamRef stream) {
    kernels::linear_backward_weight({.dy_RO = y_, .x_RI = x_, .dw_OI = dw_, .db_O = {}, .accumulate = false}, stream);
  }

 private:
  static void fill(const Tensor& tensor, float scale) {
    const TensorRef t = tensor.ref();
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      const float value = scale * (static_cast<float>(i % 1013) / 1013.0f - 0.5f);
      if (t.dtype == DType::f32) {
        t.as<float>()[i] = value;
      } else {
        t.as<bf16>()[i] = to_bf16(value);
      }
    }
  }
  Tensor x_, w_, y_, dx_, dw_;
};

struct Direction {
  const char* name;
  void (Layer::*run)(StreamRef);
};
constexpr std::array kDirections = {Direction{"forward", &Layer::forward}, Direction{"input gradient", &Layer::backward_input},
                                    Direction{"weight gradient", &Layer::backward_weight}};

// What the multiply-add units give, measured beside every layer: the spread shows how quiet the machine was, and the best of
// them is the bound.
class PeakMeter {
 public:
  explicit PeakMeter(bool wants_bf16) : wants_bf16_(wants_bf16) { peak_.unit = "FLOP/s"; }
  void sample(ThreadPool& pool) {
    const kernels::PeakRates rates = kernels::measure_peak(pool);
    const bool bf16_units = wants_bf16_ && rates.bf16_gflops > 0.0;
    peak_.name = bf16_units ? "peak of bf16 products" : "peak of f32 multiply-adds";
    peak_.samples.push_back(1e9 * (bf16_units ? rates.bf16_gflops : rates.f32_gflops));
  }
  const Measurement& peak() const { return peak_; }

 private:
  bool wants_bf16_;
  Measurement peak_;
};

// FLOP/s of the three products of one layer.
std::vector<Measurement> measure_layer(const LinearShape& shape, const BenchOptions& options, Stream& stream) {
  const DType dtype = options.precision == "bf16" ? DType::bf16 : DType::f32;
  const std::size_t needed = Layer::bytes(shape, options.rows, dtype);
  throw_if_error(require_memory(needed, std::string("bench gemm, ") + shape.model + ' ' + shape.name));
  TierArena arena(Tier::gpu, needed);
  Layer layer(arena, shape, options.rows, dtype);
  const double flops = 2.0 * static_cast<double>(options.rows) * static_cast<double>(shape.in) * static_cast<double>(shape.out);
  std::vector<Measurement> measurements;
  for (const Direction& direction : kDirections) {
    Measurement m{.name = std::string(shape.model) + ' ' + shape.name + ", " + direction.name, .unit = "FLOP/s"};
    for (int i = -1; i < options.repeats; ++i) {  // the first one warms up
      Status status;
      const double seconds = seconds_of([&] {
        (layer.*direction.run)(stream.ref());
        status = stream.ref().synchronize();
      });
      throw_if_error(status);
      if (i >= 0) m.samples.push_back(flops / seconds);
    }
    measurements.push_back(std::move(m));
  }
  return measurements;
}

Status bench_gemm(const BenchOptions& options) {
  const Machine machine = describe_machine();
  Device device(Backend::host, threads_or_all(options.threads, machine));
  Stream stream(device, "compute");
  BenchReport report{.benchmark = "gemm",
                     .parameters = {{"precision", options.precision}, {"rows", std::to_string(options.rows)}},
                     .threads = device.pool().threads()};
  PeakMeter meter(options.precision == "bf16");
  for (const LinearShape& shape : kShapes) {
    if (options.model != "all" && options.model != shape.model) continue;
    meter.sample(device.pool());
    for (Measurement& m : measure_layer(shape, options, stream)) report.measurements.push_back(std::move(m));
  }
  for (Measurement& m : report.measurements) {
    m.bound = statistics(meter.peak().samples).max;
    m.bound_name = meter.peak().name;
  }
  report.measurements.push_back(meter.peak());
  print_report(report, machine, options.json);
  return {};
}

}  // namespace

int run_bench_gemm(const BenchOptions& options) { return finish_command(bench_gemm(options)); }

}  // namespace strata
