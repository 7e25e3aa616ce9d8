#include "launcher/bench_step.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "model/transformer.h"
#include "parallel/thread_communicator.h"
#include "runtime/rng.h"
#include "trainer/engine.h"
#include "trainer/gpu_setup.h"
#include "trainer/initialise.h"
#include "trainer/plan.h"

namespace strata {
namespace {

struct Options {
  int threads = 0;
  int steps = 5;
  std::int64_t batch = 4;
  std::int64_t seq_length = 1024;
  std::string precision = "fp32";
  bool recompute = false;
  bool json = false;
  std::string backend = "auto";
  std::string optimizer = "cpu";
  bool tf32 = false;
};

ModelConfig gpt2_124m(std::int64_t positions) {
  ModelConfig config;
  config.architecture = Architecture::gpt2;
  config.vocab_size = 50257;
  config.hidden_size = 768;
  config.num_layers = 12;
  config.num_heads = config.num_kv_heads = 12;
  config.head_dim = 64;
  config.ffn_size = 3072;
  config.max_positions = std::max<std::int64_t>(1024, positions);
  config.tie_embeddings = true;
  return config;
}

std::size_t peak_rss_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

Result<std::unique_ptr<Device>> make_device(const Options& options, int threads) {
  Config config;
  config.device.backend = options.backend == "cuda"   ? Config::Device::Choice::cuda
                          : options.backend == "host" ? Config::Device::Choice::host
                                                      : Config::Device::Choice::automatic;
  config.device.tf32 = options.tf32;
  STRATA_ASSIGN_OR_RETURN(const Backend backend, choose_backend(config));
  if (backend == Backend::host) return std::make_unique<Device>(Backend::host, threads);
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<GpuDriver> driver, make_gpu_driver(config, 0));
  return std::make_unique<Device>(std::move(driver), threads);
}

Status measure(const Options& options) {
  const Machine machine = describe_machine();
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(gpt2_124m(options.seq_length)));
  EngineOptions engine_options;
  engine_options.compute = options.precision == "bf16" ? DType::bf16 : DType::f32;
  engine_options.micro_batch = options.batch;
  engine_options.seq_length = options.seq_length;
  engine_options.recompute = options.recompute;
  engine_options.adamw.weight_decay = 0.1;
  engine_options.optimizer.home = options.optimizer == "none" ? Tier::gpu : Tier::cpu;
  const int threads = threads_or_all(options.threads, machine);
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_device(options, threads));
  STRATA_ASSIGN_OR_RETURN(const Plan plan,
                          make_plan(*model, engine_options, WorldSize{1}, Rank{0}, threads, device->backend()));
  STRATA_RETURN_IF_ERROR(require_memory(plan.host_bytes(), "bench step"));
  engine_options.gpu_budget = plan.gpu.high_water;
  engine_options.cpu_budget = plan.cpu.high_water;
  const std::unique_ptr<Communicator> comm = make_single_rank_communicator();
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                          Engine::create(*device, *model, engine_options, *comm, nullptr));
  STRATA_RETURN_IF_ERROR(initialise_parameters(*engine, *model, 1234));
  const Engine::BatchLoader load = [&](int, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    const Philox draw(1234, stream_id("bench step"));
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<std::int32_t>(draw.u32(i) % 50257u);
      targets[i] = static_cast<std::int32_t>(draw.u32(i + 1) % 50257u);
    }
    return Status();
  };
  std::vector<double> seconds;
  double loss = 0.0;
  for (int step = 1; step <= options.steps + 1; ++step) {  // the first one warms up
    const auto begin = std::chrono::steady_clock::now();
    STRATA_ASSIGN_OR_RETURN(const StepResult result, engine->step(step, 1e-4, load, [] { return false; }));
    STRATA_RETURN_IF_ERROR(engine->finish());  // the update belongs to the step that is timed
    if (step > 1) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    loss = result.loss;
  }
  const double tokens = static_cast<double>(options.batch * options.seq_length);
  const Statistics s = statistics(seconds);
  if (options.json) {
    const nlohmann::json j = {{"benchmark", "step"},
                              {"model", "gpt2-124m"},
                              {"precision", options.precision},
                              {"B", options.batch},
                              {"T", options.seq_length},
                              {"backend", to_string(device->backend())},
                              {"optimizer", options.optimizer},
                              {"threads", threads},
                              {"recompute", options.recompute},
                              {"step_seconds", seconds},
                              {"tokens_per_s", tokens / s.median},
                              {"peak_rss_bytes", peak_rss_bytes()},
                              {"planned_bytes", plan.host_bytes()},
                              {"planned_gpu_bytes", plan.gpu.high_water},
                              {"last_loss", loss},
                              {"cpu", machine.cpu}};
    fmt::print("{}\n", j.dump());
    return {};
  }
  BenchReport report;
  report.benchmark = "step";
  report.parameters = {{"model", "gpt2-124m"},
                       {"precision", options.precision},
                       {"B", std::to_string(options.batch)},
                       {"T", std::to_string(options.seq_length)},
                       {"backend", to_string(device->backend())},
                       {"optimizer", options.optimizer}};
  report.threads = threads;
  report.measurements.push_back({.name = "step", .unit = "s", .samples = seconds});
  std::vector<double> rates;
  for (const double x : seconds) rates.push_back(plan.flops_per_step / x);
  report.measurements.push_back(
      {.name = options.recompute ? "8 x parameters x tokens" : "6 x parameters x tokens", .unit = "FLOP/s", .samples = rates});
  report.notes = {fmt::format("{:.0f} tokens/s", tokens / s.median),
                  fmt::format("peak resident memory {}, planned: gpu tier {}, cpu tier {}", format_bytes(peak_rss_bytes()),
                              format_bytes(plan.gpu.high_water), format_bytes(plan.cpu.high_water))};
  print_report(report, machine, false);
  return {};
}

}  // namespace

void add_bench_step(CLI::App& bench, std::function<int()>& action) {
  CLI::App* command = bench.add_subcommand("step", "Training steps of GPT-2 124M on one rank, random tokens");
  const auto options = std::make_shared<Options>();
  command->add_flag("--json", options->json, "One JSON object on stdout instead of text");
  command->add_option("--steps", options->steps, "Timed steps, after one that warms up")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "0: every core this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--batch", options->batch, "Sequences a step")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--seq-length", options->seq_length, "Tokens a sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--precision", options->precision, "fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command->add_option("--backend", options->backend, "auto, host or cuda")
      ->check(CLI::IsMember({"auto", "host", "cuda"}))
      ->capture_default_str();
  command->add_option("--optimizer", options->optimizer, "Home of the optimizer state: none (the gpu tier) or cpu")
      ->check(CLI::IsMember({"none", "cpu"}))
      ->capture_default_str();
  command->add_flag("--tf32", options->tf32, "On cuda: products of fp32 on tensor cores");
  command->add_flag("--recompute", options->recompute, "Keep unit boundaries only and run forwards again");
  command->callback([options, &action] { action = [options] { return finish_command(measure(*options)); }; });
}

}  // namespace strata
