// What every benchmark prints: the machine, then each measurement with its spread and its bound.
#pragma once

#include <string>
#include <vector>

#include "launcher/machine.h"
#include "runtime/quantity.h"
#include "runtime/status.h"

namespace strata {

struct Statistics {
  double median = 0, spread = 0, min = 0, max = 0;  // spread: median absolute deviation from the median
  std::size_t n = 0;
};
// Of at least one sample.
Statistics statistics(std::vector<double> samples);

struct Measurement {
  std::string name{};
  std::string unit{};  // "B/s", "FLOP/s", "parameters/s", "s"; larger is better except for seconds
  std::vector<double> samples{};
  double bound = 0.0;        // same unit; 0: none is known
  std::string bound_name{};  // "copy, streaming stores"
};

// Makes the one with the largest median of `candidates` (at least one) the bound of `m`.
void bound_by_best(Measurement& m, const std::vector<Measurement>& candidates);

struct BenchReport {
  std::string benchmark{};                                        // "adam"
  std::vector<std::pair<std::string, std::string>> parameters{};  // what was run: {"precision", "bf16"}
  int threads = 1;
  std::vector<Measurement> measurements{};
  std::vector<std::string> notes{};
};

// What is measured and by how many threads, and how the program was built.
void print_machine(const Machine& machine, int threads);

// Text, or one JSON object, on stdout.
void print_report(const BenchReport& report, const Machine& machine, bool json);

}  // namespace strata
