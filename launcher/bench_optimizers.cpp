// `strata bench optimizers`: one update of a matrix by each method, in turns with each other and with the traffic of AdamW's
// update, the bound of those that memory bounds.
#include "launcher/bench_optimizers.h"

#include <algorithm>

#include "launcher/bench.h"
#include "launcher/bench_report.h"
#include "launcher/bench_traffic.h"
#include "launcher/command.h"
#include "trainer/stream_timer.h"

namespace strata {
namespace {

struct Timed {
  MethodRun run;
  StreamTimer timer;
  Measurement parameters, work;  // work: bytes or operations a second
};

Status bench_optimizers(const BenchOptions& options) {
  const MatrixShape shape = {
      .rows = options.matrix_rows, .columns = options.matrix_columns, .rank = options.rank, .density = options.density};
  if (shape.rank > std::min(shape.rows, shape.columns))
    return {Code::invalid_config, "bench optimizers: --rank " + std::to_string(shape.rank) +
                                      " is more than the shorter of --rows " + std::to_string(shape.rows) + " and --columns " +
                                      std::to_string(shape.columns)};
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const bool on_gpu = device->has_separate_memory();
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    TensorSet tensors(bench);
    const MethodArrays arrays(bench, tensors, shape);
    const TrafficMeter alone(bench, arrays.slice());
  });
  STRATA_RETURN_IF_ERROR(require_memory(on_gpu ? 0 : needed.gpu, "bench optimizers (see --rows and --columns)"));
  Workbench bench(*device, needed);
  TensorSet tensors(bench);
  MethodArrays arrays(bench, tensors, shape);
  TrafficMeter alone(bench, arrays.slice());
  const auto n = static_cast<double>(arrays.slice().n);

  std::vector<Timed> all;
  for (const std::string& name : options.methods.empty() ? bench_method_names() : options.methods) {
    MethodRun run = arrays.run(name);
    const bool multiplies = run.flops_per_parameter > 0.0;
    StreamTimer timer({bench.stream()}, run.enqueue);
    all.push_back({.run = std::move(run),
                   .timer = std::move(timer),
                   .parameters = {.name = name, .unit = "parameters/s"},
                   .work = {.name = name + (multiplies ? ", products" : ", traffic"), .unit = multiplies ? "FLOP/s" : "B/s"}});
  }
  for (int i = 0; i < options.repeats; ++i) {
    for (Timed& one : all) {
      const double rate = n / one.timer.sample();
      const double work = one.run.flops_per_parameter > 0.0 ? one.run.flops_per_parameter : one.run.bytes_per_parameter;
      one.parameters.samples.push_back(rate);
      one.work.samples.push_back(rate * work);
    }
    alone.sample();
  }

  BenchReport report{.benchmark = "optimizers",
                     .parameters = {{"rows", std::to_string(shape.rows)},
                                    {"columns", std::to_string(shape.columns)},
                                    {"rank", std::to_string(shape.rank)},
                                    {"density", std::to_string(shape.density)}},
                     .threads = device->threads()};
  const std::vector<Measurement> bounds = alone.measurements();
  for (Timed& one : all) {
    if (one.run.flops_per_parameter == 0.0) bound_by_best(one.work, bounds);
    report.measurements.push_back(std::move(one.parameters));
    report.measurements.push_back(std::move(one.work));
  }
  report.measurements.insert(report.measurements.end(), bounds.begin(), bounds.end());
  report.notes.push_back(
      "bytes are those that must move; projections are not drawn anew, and FRUGAL's choice is not made anew");
  if (on_gpu)
    report.notes.push_back("apollo and apollo-mini: without the sums of the limiter, which the host adds between both passes");
  if (const std::string note = cache_note(*device, static_cast<std::size_t>(n) * 16); !note.empty())
    report.notes.push_back(note);
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_optimizers(const BenchOptions& options) { return finish_command(bench_optimizers(options)); }

}  // namespace strata
