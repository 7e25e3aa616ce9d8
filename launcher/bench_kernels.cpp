// `strata bench kernels`: each memory-bound kernel against the copy bandwidth of the memory it works in, measured in turns.
#include "launcher/bench_kernels.h"

#include "launcher/bench.h"
#include "launcher/bench_copy.h"
#include "launcher/bench_models.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "trainer/stream_timer.h"

namespace strata {
namespace {

Status bench_kernels(const BenchOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const std::string& model = options.models.front();
  const KernelShapes shapes = {.model = bench_model(model, options.seq_length),
                               .B = options.batch,
                               .T = options.seq_length,
                               .dtype = options.precision == "bf16" ? DType::bf16 : DType::f32};
  const std::vector<KernelCase> cases = kernel_cases(shapes, *device);
  const auto copied = static_cast<std::size_t>(options.bytes);
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    const CopyMeter copy(bench, copied);
    for (const KernelCase& c : cases) {
      TensorSet tensors(bench);
      (void)c.prepare(tensors, bench.stream());
    }
  });
  STRATA_RETURN_IF_ERROR(
      require_memory(device->has_separate_memory() ? 0 : needed.gpu, "bench kernels (see --batch and --seq-length)"));
  Workbench bench(*device, needed);
  CopyMeter copy(bench, copied);
  BenchReport report{.benchmark = "kernels",
                     .parameters = {{"precision", options.precision},
                                    {"model", model},
                                    {"B", std::to_string(options.batch)},
                                    {"T", std::to_string(options.seq_length)}},
                     .threads = device->threads()};
  for (const KernelCase& c : cases) {
    TensorSet tensors(bench);
    const KernelRun run = c.prepare(tensors, bench.stream());
    const StreamTimer timer({bench.stream()}, run.enqueue);
    Measurement m{.name = c.name, .unit = "B/s"};
    for (int i = 0; i < options.repeats; ++i) {
      m.samples.push_back(run.bytes / timer.sample());
      copy.sample();
    }
    report.measurements.push_back(std::move(m));
  }
  for (Measurement& m : report.measurements) copy.bound(m);
  for (Measurement& m : copy.measurements()) report.measurements.push_back(std::move(m));
  report.notes.push_back("bytes are those that must move: each operand read once, each result written once");
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_kernels(const BenchOptions& options) { return finish_command(bench_kernels(options)); }

}  // namespace strata
