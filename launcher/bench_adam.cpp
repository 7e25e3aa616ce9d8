// `strata bench adam`: the optimizer update against the copy bandwidth of the memory it works in, measured in turns.
#include "launcher/bench.h"
#include "launcher/bench_copy.h"
#include "launcher/bench_report.h"
#include "launcher/bench_timing.h"
#include "launcher/command.h"
#include "optim/adamw.h"
#include "optim/gpu_kernels.h"

namespace strata {
namespace {

// The tensors of one update, filled with what training has: small parameters and gradients, moments of some steps.
AdamWSlice make_slice(TensorSet& tensors, std::int64_t n, bool with16) {
  const auto values = [&](float scale, float offset) { return tensors.filled(DType::f32, {n}, scale, offset).as<float>(); };
  AdamWSlice slice = {.p = values(0.02f, 0.0f),
                      .m = values(1e-3f, 0.0f),
                      .v = values(1e-6f, 1e-6f),
                      .g = values(1e-3f, -2e-4f),
                      .n = n,
                      .decay = true};
  if (with16) slice.p16 = tensors.zeros(DType::bf16, {n}).as<bf16>();
  return slice;
}

// As OptimizerStore gives it to whoever updates.
void enqueue_update(const AdamWSlice& slice, const AdamWScalars& scalars, StreamRef stream) {
  if (stream.on_gpu()) {
    stream.device().gpu().table<OptimGpuKernels>().adamw_update(slice, scalars, stream.queue());
    return;
  }
  stream.enqueue("adamw", [slice, scalars, &pool = stream.device().pool()] {
    adamw_update(slice, scalars, pool);
    return Status();
  });
}

Status bench_adam(const BenchOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const bool with16 = options.precision == "bf16";
  const std::int64_t n = options.parameters;
  const auto copied = static_cast<std::size_t>(n) * 2 * sizeof(float);  // as large as two of the update's tensors
  const std::size_t needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    const CopyMeter copy(bench, copied);
    TensorSet tensors(bench);
    make_slice(tensors, n, with16);
  });
  STRATA_RETURN_IF_ERROR(
      require_memory(device->has_separate_memory() ? 0 : needed, "bench adam with --parameters " + std::to_string(n)));
  Workbench bench(*device, needed);
  CopyMeter copy(bench, copied);
  TensorSet tensors(bench);
  const AdamWSlice slice = make_slice(tensors, n, with16);
  const AdamWScalars scalars = adamw_scalars({}, 1e-4, 10, 0.9);
  const StreamTimer update({bench.stream()}, [&] { enqueue_update(slice, scalars, bench.stream()); });

  // Read p, m, v, g and write p, m, v, and p16.
  const double bytes = static_cast<double>(n) * (with16 ? 30.0 : 28.0);
  Measurement parameters{.name = "update", .unit = "parameters/s"};
  Measurement traffic{.name = "update, traffic", .unit = "B/s"};
  for (int i = 0; i < options.repeats; ++i) {
    const double seconds = update.sample();
    copy.sample();
    parameters.samples.push_back(static_cast<double>(n) / seconds);
    traffic.samples.push_back(bytes / seconds);
  }
  copy.bound(traffic);
  BenchReport report{.benchmark = "adam",
                     .parameters = {{"precision", options.precision}, {"parameters", std::to_string(n)}},
                     .threads = device->threads(),
                     .measurements = {parameters, traffic}};
  for (Measurement& m : copy.measurements()) report.measurements.push_back(std::move(m));
  if (!device->has_separate_memory())
    report.notes.push_back("an update in place needs no line read for ownership, so it can exceed a copy");
  if (const std::string note = cache_note(*device, static_cast<std::size_t>(n) * 16); !note.empty())
    report.notes.push_back(note);
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_adam(const BenchOptions& options) { return finish_command(bench_adam(options)); }

}  // namespace strata
