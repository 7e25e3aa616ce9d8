#include "launcher/bench.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "launcher/bench_models.h"
#include "launcher/bench_optimizers.h"
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
  app->add_option("--repeats", options->repeats, "Timed samples")->check(CLI::Range(1, 100000))->capture_default_str();
  app->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
  return {app, options};
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

void add_count(const Command& command, const char* name, std::int64_t& value, const char* description) {
  command.app->add_option(name, value, description)
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
}

CLI::Option* add_models(const Command& command, std::vector<std::string> standard) {
  command.options->models = std::move(standard);
  return command.app->add_option("--model", command.options->models, "Whose shapes")
      ->check(CLI::IsMember(bench_model_names()))
      ->capture_default_str();
}

void add_adam(CLI::App& bench, std::function<int()>& action) {
  const Command adam =
      add(bench, "adam", "AdamW update against the same reads and writes without arithmetic", run_bench_adam, action);
  add_device_options(*adam.app, adam.options->device);
  add_precision(adam);
  adam.app->add_option("--parameters", adam.options->parameters, "Parameters updated at once")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
}

void add_optimizers(CLI::App& bench, std::function<int()>& action) {
  const Command optimizers =
      add(bench, "optimizers", "One update of a matrix by each optimizer, side by side: parameters a second",
          run_bench_optimizers, action);
  CLI::App& app = *optimizers.app;
  add_device_options(app, optimizers.options->device);
  add_count(optimizers, "--rows", optimizers.options->matrix_rows, "Of the matrix: outputs of the layer");
  add_count(optimizers, "--columns", optimizers.options->matrix_columns, "Of the matrix: inputs of the layer");
  add_count(optimizers, "--rank", optimizers.options->rank, "Of the projections of apollo and galore");
  app.add_option("--density", optimizers.options->density, "Part of the elements that have states with frugal")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--method", optimizers.options->methods, "Which ones, separated by commas; default: all")
      ->check(CLI::IsMember(bench_method_names()))
      ->delimiter(',');
}

void add_copy(CLI::App& bench, std::function<int()>& action) {
  const Command copy =
      add(bench, "copy", "Copy bandwidth of memory; on a GPU also to and from the host's", run_bench_copy, action);
  add_device_options(*copy.app, copy.options->device);
  add_bytes(copy, "Bytes copied at once, e.g. 256MiB", 4096);
}

void add_gemm(CLI::App& bench, std::function<int()>& action) {
  const Command gemm =
      add(bench, "gemm", "Matrix products of transformer blocks against the peak of the processor", run_bench_gemm, action);
  gemm.options->repeats = 5;
  add_device_options(*gemm.app, gemm.options->device);
  add_precision(gemm);
  add_count(gemm, "--rows", gemm.options->rows, "Tokens of a micro-batch");
  add_count(gemm, "--square", gemm.options->square, "On a GPU: rows and columns of the product that is the bound");
  add_models(gemm, {"gpt2-124m", "llama-1b"})->delimiter(',');
}

void add_kernels(CLI::App& bench, std::function<int()>& action) {
  const Command kernels =
      add(bench, "kernels", "Memory-bound kernels of training against the copy bandwidth of memory", run_bench_kernels, action);
  add_device_options(*kernels.app, kernels.options->device);
  add_precision(kernels);
  add_bytes(kernels, "Bytes of the copies that are the bound", 4096);
  add_count(kernels, "--batch", kernels.options->batch, "Sequences");
  add_count(kernels, "--seq-length", kernels.options->seq_length, "Tokens a sequence");
  add_models(kernels, {"llama-7b"})->expected(1);
}

void add_attention(CLI::App& bench, std::function<int()>& action) {
  const Command attention =
      add(bench, "attention", "Causal attention, forward and backward: operations a second", run_bench_attention, action);
  attention.options->repeats = 5;
  add_device_options(*attention.app, attention.options->device);
  add_precision(attention);
  add_count(attention, "--batch", attention.options->batch, "Sequences");
  add_count(attention, "--seq-length", attention.options->seq_length, "Tokens a sequence");
  add_count(attention, "--heads", attention.options->heads, "Query heads");
  attention.app->add_option("--kv-heads", attention.options->kv_heads, "Key and value heads; 0: as many as query heads")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  add_count(attention, "--head-dim", attention.options->head_dim, "Elements a head");
}

void add_nvme(CLI::App& bench, std::function<int()>& action) {
  const Command nvme =
      add(bench, "nvme", "Read and write rates of a folder with the requests of training", run_bench_nvme, action);
  nvme.options->bytes = std::int64_t{1} << 30;
  add_bytes(nvme, "Size of the scratch file, e.g. 4GiB; larger than the device's cache for honest numbers", 1 << 20);
  nvme.app->add_option("--path", nvme.options->paths, "Folder that is measured; may be given several times")->required();
  nvme.app->add_option("--block-size", nvme.options->block_size, "Largest request, e.g. 1MiB; a multiple of 4096")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::int64_t{4096}, std::int64_t{1} << 30))
      ->capture_default_str();
  nvme.app->add_option("--queue-depth", nvme.options->queue_depth, "Requests in flight")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  nvme.app->add_option("--engine", nvme.options->engine, "auto, io_uring or threads")
      ->check(CLI::IsMember({"auto", "io_uring", "threads"}))
      ->capture_default_str();
  nvme.app->add_flag("--sweep", nvme.options->sweep, "Tries block sizes and queue depths, and suggests what to configure");
  nvme.app
      ->add_option("--ranks", nvme.options->ranks,
                   "Processes that read and write records at the same time, at will and by turns: suggests nvme.exclusive")
      ->check(CLI::Range(0, 64));
  nvme.app
      ->add_option(
          "--window", nvme.options->window,
          "Memory that requests use in turn; as much as the requests in flight have, to compare with programs that reuse it")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  nvme.app->add_option("--record-size", nvme.options->record_size, "Of --ranks: of a record, e.g. 64MiB")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  nvme.app->add_option("--seconds", nvme.options->seconds, "Seconds of each traffic pattern (and setting)")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
}

}  // namespace

void add_device_options(CLI::App& command, DeviceOptions& options) {
  command.add_option("--threads", options.threads, "Threads of the host; 0: every core this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_option("--backend", options.backend, "auto (a GPU where there is one), host or cuda")
      ->check(CLI::IsMember({"auto", "host", "cuda"}))
      ->capture_default_str();
  command.add_flag("--tf32", options.tf32, "On cuda: products of fp32 on tensor cores");
}

void add_bench_command(CLI::App& app, std::function<int()>& action) {
  CLI::App& bench = *app.add_subcommand("bench", "Measure one resource of this machine against its bound");
  bench.require_subcommand(1);
  add_adam(bench, action);
  add_optimizers(bench, action);
  add_copy(bench, action);
  add_gemm(bench, action);
  add_kernels(bench, action);
  add_attention(bench, action);
  add_nvme(bench, action);
  add_bench_step(bench, action);
}

}  // namespace strata
