// `strata bench nvme`: what folders can do with the requests of training, and the configuration that suits them.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "launcher/bench.h"
#include "launcher/bench_report.h"
#include "launcher/bench_turns.h"
#include "launcher/command.h"
#include "nvme/benchmark.h"
#include "nvme/probe.h"
#include "runtime/arena.h"
#include "runtime/config.h"

namespace strata {
namespace {

constexpr std::size_t kSweptBlocks[] = {256 << 10, 1 << 20, 2 << 20, 4 << 20};
constexpr unsigned kSweptDepths[] = {1, 4, 16, 64};
// A setting that is slower by less than this is as good: the smaller one then leaves more memory and waits less.
constexpr double kAsGood = 0.97;

using Kind = IoEngineOptions::Kind;

IoEngineOptions setting(const BenchOptions& options, std::size_t block_bytes, unsigned queue_depth) {
  const Kind kind = options.engine == "auto" ? Kind::automatic : options.engine == "io_uring" ? Kind::io_uring : Kind::threads;
  return {.kind = kind, .queue_depth = queue_depth, .block_bytes = block_bytes};
}

std::vector<IoEngineOptions> settings_of(const BenchOptions& options) {
  if (!options.sweep) {
    return {setting(options, static_cast<std::size_t>(options.block_size), static_cast<unsigned>(options.queue_depth))};
  }
  std::vector<IoEngineOptions> settings;
  for (const std::size_t block : kSweptBlocks) {
    for (const unsigned depth : kSweptDepths) settings.push_back(setting(options, block, depth));
  }
  return settings;
}

std::string name(const IoEngineOptions& options) {
  return exact_bytes(options.block_bytes) + " x " + std::to_string(options.queue_depth);
}

// Of one path, in the order of the settings.
using PathResults = std::vector<NvmeRates>;

std::vector<double> weights_at(const std::vector<PathResults>& paths, std::size_t s) {
  std::vector<PathRate> rates;
  for (const PathResults& path : paths) rates.push_back({path[s].read.median, path[s].write.median});
  return placement_weights(rates);
}

// The smallest setting with which state is read and written about as fast, over all paths, as with the fastest.
std::size_t best_setting(const std::vector<PathResults>& paths) {
  std::vector<double> rate;
  for (std::size_t s = 0; s < paths[0].size(); ++s) {
    rate.push_back(0.0);
    for (const double weight : weights_at(paths, s)) rate.back() += weight;
  }
  const double enough = kAsGood * *std::max_element(rate.begin(), rate.end());
  std::size_t best = rate.size();
  const auto in_flight = [&](std::size_t s) { return paths[0][s].options.block_bytes * paths[0][s].options.queue_depth; };
  for (std::size_t s = 0; s < rate.size(); ++s) {
    if (rate[s] >= enough && (best == rate.size() || in_flight(s) < in_flight(best))) best = s;
  }
  return best;
}

std::string suggestion(const std::vector<std::string>& folders, const std::vector<PathResults>& paths) {
  const std::size_t s = best_setting(paths);
  const IoEngineOptions& o = paths[0][s].options;
  std::vector<std::string> names, weights;
  for (const std::string& folder : folders) names.push_back(fmt::format("\"{}\"", folder));
  for (const double weight : weights_at(paths, s)) weights.push_back(fmt::format("{:.3g}", weight * 1e-9));
  return fmt::format("nvme: {{path: [{}], {}queue_depth: {}, block_size: {}}}", fmt::join(names, ", "),
                     folders.size() > 1 ? fmt::format("weights: [{}], ", fmt::join(weights, ", ")) : "", o.queue_depth,
                     exact_bytes(o.block_bytes));
}

void add_measurements(const std::string& prefix, const NvmeRates& rates, std::vector<Measurement>* measurements) {
  measurements->push_back({.name = prefix + "read", .unit = "B/s", .samples = rates.read.samples});
  measurements->push_back({.name = prefix + "write", .unit = "B/s", .samples = rates.write.samples});
  measurements->push_back({.name = prefix + "read and write", .unit = "B/s", .samples = rates.mixed.samples});
}

void print_table(const std::string& folder, const PathResults& results) {
  fmt::print("\n{}\n{:<14}{:>11}{:>11}{:>16}{:>11}{:>11}{:>11}{:>11}\n", folder, "block x depth", "read", "write",
             "read and write", "read p50", "read p99", "write p50", "write p99");
  for (const NvmeRates& r : results) {
    fmt::print("{:<14}{:>11}{:>11}{:>16}{:>11}{:>11}{:>11}{:>11}\n", name(r.options), format_quantity(r.read.median, "B/s"),
               format_quantity(r.write.median, "B/s"), format_quantity(r.mixed.median, "B/s"),
               format_quantity(r.read.latency.p50, "s"), format_quantity(r.read.latency.p99, "s"),
               format_quantity(r.write.latency.p50, "s"), format_quantity(r.write.latency.p99, "s"));
  }
}

BenchReport report_of(const BenchOptions& options, const std::vector<PathResults>& paths) {
  const NvmeRates& first = paths[0][0];
  BenchReport report{.benchmark = "nvme",
                     .parameters = {{"path", fmt::format("{}", fmt::join(options.paths, " "))},
                                    {"bytes", format_bytes(static_cast<std::size_t>(options.bytes))},
                                    {"engine", first.engine},
                                    {"direct", first.direct ? "yes" : "no"},
                                    {"alignment", std::to_string(first.alignment)},
                                    {"max_transfer", std::to_string(first.max_transfer)}},
                     .threads = 1};
  for (std::size_t p = 0; p < paths.size(); ++p) {
    const std::string path = paths.size() > 1 ? options.paths[p] + ": " : "";
    for (const NvmeRates& rates : paths[p]) {
      add_measurements(path + (options.sweep ? name(rates.options) + ", " : ""), rates, &report.measurements);
    }
    for (const std::string& note : paths[p][0].notes) report.notes.push_back(note);
    if (!paths[p][0].direct)
      report.notes.push_back(options.paths[p] + ": no direct I/O: these are rates of the page cache, not of the device");
  }
  report.parameters.emplace_back("window", exact_bytes(static_cast<std::size_t>(options.window)));
  if (!options.sweep) {
    report.parameters.emplace_back("block_size", exact_bytes(first.options.block_bytes));
    report.parameters.emplace_back("queue_depth", std::to_string(first.options.queue_depth));
  }
  if (options.sweep || paths.size() > 1) report.parameters.emplace_back("suggestion", suggestion(options.paths, paths));
  return report;
}

Status bench_nvme(const BenchOptions& options) {
  const Machine machine = describe_machine();
  const std::vector<IoEngineOptions> settings = settings_of(options);
  std::vector<PathResults> paths;
  for (const std::string& folder : options.paths) {
    STRATA_ASSIGN_OR_RETURN(PathResults results,
                            measure_nvme(folder, static_cast<std::size_t>(options.bytes), settings, options.seconds,
                                         options.repeats, static_cast<std::size_t>(options.window)));
    paths.push_back(std::move(results));
  }
  BenchReport report = report_of(options, paths);
  const bool table = options.sweep && !options.json;
  if (table) report.measurements.clear();  // the table has them
  print_report(report, machine, options.json);
  for (std::size_t p = 0; p < paths.size() && table; ++p) print_table(options.paths[p], paths[p]);
  return {};
}

}  // namespace

int run_bench_nvme(const BenchOptions& options) {
  return finish_command(options.ranks > 0 ? bench_turns(options) : bench_nvme(options));
}

}  // namespace strata
