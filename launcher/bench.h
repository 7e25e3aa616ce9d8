// `strata bench ...`: measures one resource of this machine at a time and compares it with its bound, on the host or on a GPU.
// Every command prints the machine, then median, spread (median absolute deviation), min, max, n and measured / bound.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "launcher/bench_device.h"

namespace CLI {
class App;
}

namespace strata {

// What the command line said; a command reads the fields that its help names.
struct BenchOptions {
  DeviceOptions device;
  int repeats = 11;  // timed samples of each measurement, after one that warms up
  bool json = false;
  std::string precision = "fp32";     // "fp32" or "bf16"
  std::int64_t parameters = 1 << 25;  // adam
  std::int64_t bytes = 1 << 28;       // copy, kernels: of the source of a copy; nvme: of the scratch file
  std::int64_t rows = 1024;           // gemm: tokens of a micro-batch
  std::int64_t square = 8192;         // gemm: of the product that is the bound on a GPU
  std::vector<std::string> models;    // gemm, kernels: whose shapes
  std::int64_t batch = 4;             // kernels, attention: sequences
  std::int64_t seq_length = 1024;     // kernels, attention
  std::int64_t heads = 16;            // attention
  std::int64_t kv_heads = 0;          // attention; 0: as many
  std::int64_t head_dim = 128;        // attention
  // optimizers
  std::vector<std::string> methods;  // which; empty: all
  std::int64_t matrix_rows = 4096;   // of the matrix that is updated
  std::int64_t matrix_columns = 4096;
  std::int64_t rank = 256;  // of the projections, but of apollo-mini, which has 1
  double density = 0.25;    // of FRUGAL's states
  // nvme
  std::vector<std::string> paths;                     // folders that are measured
  double seconds = 3.0;                               // of each traffic pattern
  std::int64_t block_size = std::int64_t{1} << 20;    // bytes
  std::int64_t queue_depth = 16;                      // requests
  std::string engine = "auto";                        // or "io_uring", "threads"
  bool sweep = false;                                 // over block sizes and queue depths
  std::int64_t ranks = 0;                             // 0: one process; else processes that take turns or not
  std::int64_t window = std::int64_t{64} << 20;       // bytes of memory that requests use
  std::int64_t record_size = std::int64_t{64} << 20;  // of ranks, bytes
};

// Each returns the process's exit code and prints its own error.
int run_bench_adam(const BenchOptions& options);
int run_bench_attention(const BenchOptions& options);
int run_bench_copy(const BenchOptions& options);
int run_bench_gemm(const BenchOptions& options);
int run_bench_kernels(const BenchOptions& options);
int run_bench_nvme(const BenchOptions& options);
int run_bench_optimizers(const BenchOptions& options);

// Adds `bench` with its subcommands. When one is given on the command line, parsing sets `action` to what runs it.
void add_bench_command(CLI::App& app, std::function<int()>& action);

// --threads, --backend and --tf32 of a benchmark's command.
void add_device_options(CLI::App& command, DeviceOptions& options);

}  // namespace strata
