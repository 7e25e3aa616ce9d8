#include "launcher/bench_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/arena.h"

namespace strata {
namespace {

double median_of(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2.0;
}

nlohmann::ordered_json to_json(const Machine& m, int threads) {
  nlohmann::ordered_json j = {{"cpu", m.cpu},         {"cores", m.cores},          {"threads", threads},
                              {"isa", m.isa},         {"system", m.system},        {"memory_bytes", m.memory_bytes},
                              {"backend", m.backend}, {"compiler", m.compiler},    {"commit", m.commit},
                              {"preset", m.preset},   {"build_type", m.build_type}};
  if (!m.gpu.empty()) {
    j["gpu"] = m.gpu;
    j["gpu_memory_bytes"] = m.gpu_memory_bytes;
  }
  return j;
}

nlohmann::ordered_json to_json(const Measurement& m) {
  const Statistics s = statistics(m.samples);
  nlohmann::ordered_json j = {{"name", m.name}, {"unit", m.unit}, {"median", s.median}, {"spread", s.spread},
                              {"min", s.min},   {"max", s.max},   {"n", s.n},           {"samples", m.samples}};
  if (m.bound > 0.0) {
    j["bound"] = m.bound;
    j["bound_name"] = m.bound_name;
    j["ratio"] = s.median / m.bound;
  }
  return j;
}

void print_json(const BenchReport& report, const Machine& machine) {
  nlohmann::ordered_json j = {{"benchmark", report.benchmark}, {"machine", to_json(machine, report.threads)}};
  for (const auto& [key, value] : report.parameters) j["parameters"][key] = value;
  for (const Measurement& m : report.measurements) j["measurements"].push_back(to_json(m));
  if (!report.notes.empty()) j["notes"] = report.notes;
  fmt::print("{}\n", j.dump());
}

void print_text(const BenchReport& report, const Machine& m) {
  print_machine(m, report.threads);
  fmt::print("{}:", report.benchmark);
  for (const auto& [key, value] : report.parameters) fmt::print(" {} {}", key, value);
  fmt::print("\n\n");
  std::size_t width = 11;
  for (const Measurement& x : report.measurements) width = std::max(width, x.name.size());
  if (!report.measurements.empty())
    fmt::print("{:<{}}  {:>21}  {:>7}  {:>9}  {:>9}  {:>3}  {}\n", "measurement", width, "median", "spread", "min", "max", "n",
               "measured / bound");
  for (const Measurement& x : report.measurements) {
    const Statistics s = statistics(x.samples);
    const auto number = [](double value) { return format_quantity(value, ""); };
    fmt::print("{:<{}}  {:>21}  {:>6.1f}%  {:>9}  {:>9}  {:>3}", x.name, width, format_quantity(s.median, x.unit),
               s.median != 0.0 ? 100.0 * s.spread / s.median : 0.0, number(s.min), number(s.max), s.n);
    if (x.bound > 0.0) fmt::print("  {:.2f} of {} ({})", s.median / x.bound, format_quantity(x.bound, x.unit), x.bound_name);
    fmt::print("\n");
  }
  for (const std::string& note : report.notes) fmt::print("note: {}\n", note);
}

}  // namespace

Statistics statistics(std::vector<double> samples) {
  STRATA_CHECK(!samples.empty(), "a measurement has samples");
  Statistics s;
  s.n = samples.size();
  s.median = median_of(samples);
  s.min = *std::min_element(samples.begin(), samples.end());
  s.max = *std::max_element(samples.begin(), samples.end());
  for (double& x : samples) x = std::abs(x - s.median);
  s.spread = median_of(samples);
  return s;
}

void bound_by_best(Measurement& m, const std::vector<Measurement>& candidates) {
  STRATA_CHECK(!candidates.empty(), "a bound is one of the candidates");
  for (const Measurement& candidate : candidates) {
    const double median = statistics(candidate.samples).median;
    if (median <= m.bound) continue;
    m.bound = median;
    m.bound_name = candidate.name;
  }
}

void print_machine(const Machine& m, int threads) {
  if (!m.gpu.empty()) fmt::print("{}, {}\n", m.gpu, format_bytes(m.gpu_memory_bytes));
  fmt::print("{}, {} of {} cores, {}; {}; {}\n", m.cpu, threads, m.cores, m.isa, format_bytes(m.memory_bytes), m.system);
  fmt::print("commit {}, {} ({}), {}\n", m.commit, m.preset, m.build_type, m.compiler);
}

void print_report(const BenchReport& report, const Machine& machine, bool json) {
  json ? print_json(report, machine) : print_text(report, machine);
}

}  // namespace strata
