// `strata bench adam`: the optimizer update against its bound, measured in turns: on the host the same reads and writes of the
// same arrays without the arithmetic, on a GPU the copy bandwidth of its memory.
#include "launcher/bench.h"
#include "launcher/bench_report.h"
#include "launcher/bench_traffic.h"
#include "launcher/command.h"
#include "optim/adamw.h"
#include "trainer/sample_update.h"
#include "trainer/stream_timer.h"

namespace strata {
namespace {

// Its arrays are whole chunks long.
UpdateSlice make_slice(TensorSet& tensors, std::int64_t n, bool with16) {
  UpdateSlice slice = sample_update(tensors, whole_traffic_chunks(n), {.p16 = with16});
  slice.n = n;
  return slice;
}

// Read p, m, v, g and write p, m, v, and p16.
double bytes_per_parameter(const UpdateSlice& slice) { return slice.p16 != nullptr ? 30.0 : 28.0; }

Status bench_adam(const BenchOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const bool with16 = options.precision == "bf16";
  const std::int64_t n = options.parameters;
  const bool on_gpu = device->has_separate_memory();
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    TensorSet tensors(bench);
    const TrafficMeter alone(bench, make_slice(tensors, n, with16));
  });
  STRATA_RETURN_IF_ERROR(require_memory(on_gpu ? 0 : needed.gpu, "bench adam with --parameters " + std::to_string(n)));
  Workbench bench(*device, needed);
  TensorSet tensors(bench);
  const UpdateSlice slice = make_slice(tensors, n, with16);
  const AdamW method;
  const StreamTimer update({bench.stream()}, [&] { enqueue_sample_update(method, slice, bench.stream()); });
  TrafficMeter alone(bench, slice);

  Measurement parameters{.name = "update", .unit = "parameters/s"};
  Measurement traffic{.name = "update, traffic", .unit = "B/s"};
  for (int i = 0; i < options.repeats; ++i) {
    const double seconds = update.sample();
    alone.sample();
    parameters.samples.push_back(static_cast<double>(n) / seconds);
    traffic.samples.push_back(bytes_per_parameter(slice) * static_cast<double>(n) / seconds);
  }
  const std::vector<Measurement> bounds = alone.measurements();
  bound_by_best(traffic, bounds);
  BenchReport report{.benchmark = "adam",
                     .parameters = {{"precision", options.precision}, {"parameters", std::to_string(n)}},
                     .threads = device->threads(),
                     .measurements = {parameters, traffic}};
  report.measurements.insert(report.measurements.end(), bounds.begin(), bounds.end());
  if (const std::string note = cache_note(*device, static_cast<std::size_t>(n) * 16); !note.empty())
    report.notes.push_back(note);
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_adam(const BenchOptions& options) { return finish_command(bench_adam(options)); }

}  // namespace strata
