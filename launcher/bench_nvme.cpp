// `strata bench nvme`: what one path can do with the requests of training.
#include "launcher/bench.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "nvme/benchmark.h"
#include "runtime/arena.h"

namespace strata {
namespace {

Status bench_nvme(const BenchOptions& options) {
  const Machine machine = describe_machine();
  STRATA_ASSIGN_OR_RETURN(const NvmeRates rates, measure_nvme(options.path, static_cast<std::size_t>(options.bytes), {},
                                                              options.seconds, options.repeats));
  BenchReport report{.benchmark = "nvme",
                     .parameters = {{"path", options.path},
                                    {"bytes", format_bytes(static_cast<std::size_t>(options.bytes))},
                                    {"engine", rates.engine},
                                    {"direct", rates.direct ? "yes" : "no"},
                                    {"alignment", std::to_string(rates.alignment)},
                                    {"max_transfer", std::to_string(rates.max_transfer)}},
                     .threads = 1,
                     .notes = rates.notes};
  report.measurements = {{.name = "read", .unit = "B/s", .samples = rates.read.samples},
                         {.name = "write", .unit = "B/s", .samples = rates.write.samples},
                         {.name = "read and write", .unit = "B/s", .samples = rates.mixed.samples}};
  if (!rates.direct) report.notes.push_back("no direct I/O here: these are rates of the page cache, not of the device");
  print_report(report, machine, options.json);
  return {};
}

}  // namespace

int run_bench_nvme(const BenchOptions& options) { return finish_command(bench_nvme(options)); }

}  // namespace strata
