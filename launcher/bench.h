// `strata bench ...`: measures one resource of this machine at a time and compares it with its bound.
// Every command prints the machine, then median, spread (median absolute deviation), min, max, n and measured / bound.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace strata {

// What the command line said; a command reads the fields that its help names.
struct BenchOptions {
  int threads = 0;   // 0: all cores this process may use
  int repeats = 11;  // timed repetitions of each measurement, after one that warms up
  bool json = false;
  std::string precision = "fp32";     // adam, gemm: "fp32" or "bf16"
  std::int64_t parameters = 1 << 25;  // adam
  std::int64_t bytes = 1 << 28;       // copy: of the source; nvme: of the scratch file
  std::int64_t rows = 1024;           // gemm: tokens of a micro-batch
  std::string model = "all";          // gemm: whose shapes, "gpt2", "llama" or "all"
  std::string path = ".";             // nvme: folder that is measured
  double seconds = 3.0;               // nvme: of each traffic pattern
};

// Each returns the process's exit code and prints its own error.
int run_bench_adam(const BenchOptions& options);
int run_bench_copy(const BenchOptions& options);
int run_bench_gemm(const BenchOptions& options);
int run_bench_nvme(const BenchOptions& options);

// Adds `bench` with its subcommands. When one is given on the command line, parsing sets `action` to what runs it.
void add_bench_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
