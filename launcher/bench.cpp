#include "launcher/bench.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "launcher/bench_step.h"

namespace strata {
namespace {

struct Command {
  CLI::App* app;
  std::shared_ptr<BenchOptions> options;
};

// A subcommand with the options that all have; `action` becomes run(options) when it is given.
Command add(CLI::App& bench, const char* name, const char* description, int (*run)(const BenchOptions&),
            std::function<int()>& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = bench.add_subcommand(name, description);
  app->add_flag("--json", options->json, "One JSON object on stdout instead of text");
  app->add_option("--repeats", options->repeats, "Timed repetitions")->check(CLI::Range(1, 100000))->capture_default_str();
  app->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
  return {app, options};
}

void add_threads(const Command& command) {
  command.app->add_option("--threads", command.options->threads, "Threads; 0: every core this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

void add_precision(const Command& command) {
  command.app->add_option("--precision", command.options->precision, "fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
}

void add_bytes(const Command& command, const char* description, std::int64_t least) {
  command.app->add_option("--bytes", command.options->bytes, description)
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(least, std::int64_t{1} << 44))
      ->capture_default_str();
}

}  // namespace

void add_bench_command(CLI::App& app, std::function<int()>& action) {
  CLI::App& bench = *app.add_subcommand("bench", "Measure one resource of this machine against its bound");
  bench.require_subcommand(1);

  const Command adam = add(bench, "adam", "AdamW update against the copy bandwidth of memory", run_bench_adam, action);
  add_threads(adam);
  add_precision(adam);
  adam.app->add_option("--parameters", adam.options->parameters, "Parameters updated at once")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();

  const Command copy = add(bench, "copy", "Copy bandwidth of memory", run_bench_copy, action);
  add_threads(copy);
  add_bytes(copy, "Bytes copied at once, e.g. 256MiB", 4096);

  const Command gemm =
      add(bench, "gemm", "Matrix products of transformer blocks against the peak of the cores", run_bench_gemm, action);
  gemm.options->repeats = 5;
  add_threads(gemm);
  add_precision(gemm);
  gemm.app->add_option("--rows", gemm.options->rows, "Tokens of a micro-batch")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  gemm.app->add_option("--model", gemm.options->model, "Whose shapes: gpt2, llama or all")
      ->check(CLI::IsMember({"gpt2", "llama", "all"}))
      ->capture_default_str();

  const Command nvme =
      add(bench, "nvme", "Read and write rates of a folder with the requests of training", run_bench_nvme, action);
  nvme.options->bytes = std::int64_t{1} << 30;
  add_bytes(nvme, "Size of the scratch file, e.g. 4GiB; larger than the device's cache for honest numbers", 1 << 20);
  nvme.app->add_option("--path", nvme.options->path, "Folder that is measured")->required();
  nvme.app->add_option("--seconds", nvme.options->seconds, "Seconds of each traffic pattern")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();

  add_bench_step(bench, action);
}

}  // namespace strata
