#include "launcher/bench_step.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/bench.h"
#include "launcher/bench_models.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "model/transformer.h"
#include "parallel/thread_communicator.h"
#include "runtime/rng.h"
#include "trainer/engine.h"
#include "trainer/gpu_setup.h"
#include "trainer/plan.h"

namespace strata {
namespace {

struct Options {
  DeviceOptions device;
  std::string model = "gpt2-124m";
  std::int64_t layers = 0;
  int warmup = 1;
  int steps = 5;
  std::int64_t batch = 4;
  std::int64_t seq_length = 1024;
  int micro_batches = 1;
  std::string precision = "fp32";
  bool recompute = false;
  bool json = false;
  std::string optimizer = "cpu";
  std::string path = ".";
  double peak_tflops = 0.0;
};

std::size_t peak_rss_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

ModelConfig model_of(const Options& options) {
  ModelConfig config = bench_model(options.model, options.seq_length);
  if (options.layers > 0) config.num_layers = options.layers;
  return config;
}

EngineOptions engine_options_of(const Options& options) {
  EngineOptions engine;
  engine.compute = options.precision == "bf16" ? DType::bf16 : DType::f32;
  engine.micro_batch = options.batch;
  engine.micro_batches = options.micro_batches;
  engine.seq_length = options.seq_length;
  engine.activations.recompute = options.recompute;
  engine.optimizer.groups = ParamGroups(0.1);
  engine.optimizer.home = options.optimizer == "none" ? Tier::gpu : options.optimizer == "cpu" ? Tier::cpu : Tier::nvme;
  // Of this process alone: two benchmarks in one folder do not meet.
  engine.nvme_folders = {options.path};
  engine.nvme_rank = static_cast<int>(::getpid());
  return engine;
}

// Error out_of_budget: what the plan needs is not there.
Status require_room(const Plan& plan, const Device& device) {
  STRATA_RETURN_IF_ERROR(require_memory(plan.host_bytes(), "bench step"));
  if (device.backend() != Backend::cuda) return {};
  const std::size_t usable = usable_gpu_memory(device.gpu().properties());
  if (plan.gpu.high_water <= usable) return {};
  return {Code::out_of_budget, "bench step needs " + format_bytes(plan.gpu.high_water) + " of the GPU's memory; " +
                                   format_bytes(usable) + " are usable; lower --batch, or give --recompute or --optimizer cpu"};
}

// splitmix64's finalizer (Steele et al. 2014): neighbours have nothing in common.
std::uint64_t scrambled(std::uint64_t x) {
  x = (x + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Values of the size that training starts with, without the exact normal draws of initialise_parameters, which take minutes for
// billions of parameters. They must be noise: with weights of a pattern, attention saturates, probabilities and gradients
// become denormal, and a host takes twice as long for the step.
Status fill_parameters(Engine& engine, const Model& model, ThreadPool& pool) {
  std::vector<std::vector<ParamSpec>> specs;
  for (int u = 0; u < model.unit_count(); ++u) specs.push_back(model.unit(u).params());
  return engine.optimizer().fill([&](const OptimizerRecord& record, RecordState state) {
    constexpr std::int64_t kBlock = std::int64_t{1} << 18;
    const auto u = static_cast<std::size_t>(record.unit);
    const std::vector<ParamPiece> pieces = params_in(engine.layout().units[u], record.range);
    pool.parallel_for((record.range.count + kBlock - 1) / kBlock, [&](std::int64_t block) {
      const std::int64_t first = block * kBlock, last = std::min(record.range.count, first + kBlock);
      std::fill(state.p + first, state.p + last, 0.0f);
      for (std::size_t k = 0; k < state.count; ++k)
        std::fill(state.states[k] + state.format.bytes(std::min(first, record.states)),
                  state.states[k] + state.format.bytes(std::min(last, record.states)), std::byte{0});
      for (const ParamPiece& piece : pieces) {
        const Init& init = specs[u][piece.param].init;
        const float spread = init.kind == Init::Kind::normal ? 3.46f * init.stddev : 0.0f;  // of an even distribution
        for (std::int64_t i = std::max(first, piece.offset); i < std::min(last, piece.offset + piece.count); ++i) {
          const auto index = static_cast<std::uint64_t>(record.unit) << 40 | static_cast<std::uint64_t>(record.range.first + i);
          state.p[i] = init.mean + spread * (static_cast<float>(scrambled(index) >> 40) * 0x1p-24f - 0.5f);
        }
      }
    });
    return Status();
  });
}

struct Resource {
  const char* name;
  double seconds;  // busy, of a step
};

struct Outcome {
  std::vector<double> seconds;  // of each timed step
  std::vector<Resource> busy;
  double loss = 0.0;
  MemoryReport gpu, cpu;
};

std::vector<Resource> busy_between(const BusySeconds& before, const BusySeconds& after, int steps) {
  const auto a_step = [&](double BusySeconds::*resource) { return (after.*resource - before.*resource) / steps; };
  return {{"compute", a_step(&BusySeconds::compute)},       {"communication", a_step(&BusySeconds::communication)},
          {"cpu_update", a_step(&BusySeconds::cpu_update)}, {"gpu_update", a_step(&BusySeconds::gpu_update)},
          {"gpu_to_cpu", a_step(&BusySeconds::gpu_to_cpu)}, {"cpu_to_gpu", a_step(&BusySeconds::cpu_to_gpu)},
          {"nvme_read", a_step(&BusySeconds::nvme_read)},   {"nvme_write", a_step(&BusySeconds::nvme_write)}};
}

// The same tokens in every step, drawn before the clock runs.
class Tokens {
 public:
  Tokens(std::int64_t count, std::int64_t vocabulary) : values_(static_cast<std::size_t>(count) + 1) {
    const Philox draw(1234, stream_id("bench step"));
    for (std::size_t i = 0; i < values_.size(); ++i)
      values_[i] = static_cast<std::int32_t>(draw.u32(i) % static_cast<std::uint32_t>(vocabulary));
  }
  Status load(std::span<std::int32_t> tokens, std::span<std::int32_t> targets) const {
    std::copy_n(values_.begin(), tokens.size(), tokens.begin());
    std::copy_n(values_.begin() + 1, targets.size(), targets.begin());
    return {};
  }

 private:
  std::vector<std::int32_t> values_;
};

// A step's seconds run from one return of Engine::step() to the next: then every sample holds one update, which goes on behind
// the next forward as it does in training.
Result<Outcome> run_steps(Engine& engine, const Options& options, const Tokens& tokens) {
  using Clock = std::chrono::steady_clock;
  const Engine::BatchLoader load = [&](int, std::span<std::int32_t> t, std::span<std::int32_t> targets) {
    return tokens.load(t, targets);
  };
  Outcome result;
  BusySeconds before;
  Clock::time_point last;
  for (int step = 1; step <= options.warmup + options.steps; ++step) {
    STRATA_ASSIGN_OR_RETURN(const StepResult done, engine.step(step, 1e-4, load, [] { return false; }));
    const Clock::time_point now = Clock::now();
    if (step > options.warmup) result.seconds.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
    result.loss = done.loss;
    if (step == options.warmup) before = engine.busy();
  }
  result.busy = busy_between(before, engine.busy(), options.steps);
  STRATA_RETURN_IF_ERROR(engine.finish());
  result.gpu = engine.memory(Tier::gpu);
  result.cpu = engine.memory(Tier::cpu);
  return result;
}

const Resource& largest(const std::vector<Resource>& busy) {
  return *std::max_element(busy.begin(), busy.end(),
                           [](const Resource& a, const Resource& b) { return a.seconds < b.seconds; });
}

nlohmann::json to_json(const Options& options, const Plan& plan, const Machine& machine, const Outcome& result, double flops) {
  const double median = statistics(result.seconds).median;
  const double tokens = static_cast<double>(plan.tokens_per_step);
  nlohmann::json j = {{"benchmark", "step"},
                      {"model", options.model},
                      {"layers", model_of(options).num_layers},
                      {"parameters", plan.parameters},
                      {"precision", options.precision},
                      {"tf32", options.device.tf32},
                      {"B", options.batch},
                      {"T", options.seq_length},
                      {"micro_batches", options.micro_batches},
                      {"backend", machine.backend},
                      {"optimizer", options.optimizer},
                      {"threads", plan.threads},
                      {"recompute", options.recompute},
                      {"step_seconds", result.seconds},
                      {"median_seconds", median},
                      {"tokens_per_s", tokens / median},
                      {"model_flops", flops},
                      {"model_tflops_per_s", flops / median / 1e12},
                      {"peak_rss_bytes", peak_rss_bytes()},
                      {"planned_bytes", plan.host_bytes()},
                      {"planned_gpu_bytes", plan.gpu.high_water},
                      {"planned_cpu_bytes", plan.cpu.high_water},
                      {"peak_gpu_bytes", result.gpu.high_water},
                      {"peak_cpu_bytes", result.cpu.high_water},
                      {"nvme_bytes", plan.nvme.bytes()},
                      {"last_loss", result.loss},
                      {"cpu", machine.cpu},
                      {"commit", machine.commit}};
  if (!machine.gpu.empty()) j["gpu"] = machine.gpu;
  if (options.peak_tflops > 0.0) j["mfu"] = flops / median / 1e12 / options.peak_tflops;
  for (const Resource& resource : result.busy) j["busy_seconds"][resource.name] = resource.seconds;
  if (const Resource& most = largest(result.busy); most.seconds > 0.0) {
    j["largest_resource"] = most.name;
    j["step_over_largest"] = median / most.seconds;
  }
  return j;
}

BenchReport to_report(const Options& options, const Plan& plan, const Machine& machine, const Outcome& result, double flops) {
  const double median = statistics(result.seconds).median;
  BenchReport report;
  report.benchmark = "step";
  report.parameters = {{"model", options.model},
                       {"precision", options.precision},
                       {"B", std::to_string(options.batch)},
                       {"T", std::to_string(options.seq_length)},
                       {"backend", machine.backend},
                       {"optimizer", options.optimizer}};
  report.threads = plan.threads;
  Measurement rate{.name = "operations of the model", .unit = "FLOP/s"};
  for (const double x : result.seconds) rate.samples.push_back(flops / x);
  if (options.peak_tflops > 0.0) {
    rate.bound = 1e12 * options.peak_tflops;
    rate.bound_name = "--peak-tflops";
  }
  report.measurements = {{.name = "step", .unit = "s", .samples = result.seconds}, rate};
  report.notes = {
      fmt::format("{:.0f} tokens/s", static_cast<double>(plan.tokens_per_step) / median),
      fmt::format("peak resident memory {}; gpu tier: planned {}, measured {}; cpu tier: planned {}, measured {}",
                  format_bytes(peak_rss_bytes()), format_bytes(plan.gpu.high_water), format_bytes(result.gpu.high_water),
                  format_bytes(plan.cpu.high_water), format_bytes(result.cpu.high_water))};
  for (const Resource& resource : result.busy)
    if (resource.seconds > 0.0)
      report.notes.push_back(fmt::format("{}: busy {} of a step", resource.name, format_quantity(resource.seconds, "s")));
  if (const Resource& most = largest(result.busy); most.seconds > 0.0)
    report.notes.push_back(fmt::format("a step takes {:.2f} times as long as {} is busy", median / most.seconds, most.name));
  return report;
}

Status measure(const Options& options) {
  const ModelConfig config = model_of(options);
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(config));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  EngineOptions engine_options = engine_options_of(options);
  STRATA_ASSIGN_OR_RETURN(const Plan plan,
                          make_plan(*model, engine_options, WorldSize{1}, Rank{0}, device->threads(), device->backend()));
  STRATA_RETURN_IF_ERROR(require_room(plan, *device));
  engine_options.gpu_budget = plan.gpu.high_water;
  engine_options.cpu_budget = plan.cpu.high_water;
  const std::unique_ptr<Communicator> comm = make_single_rank_communicator();
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                          Engine::create(*device, *model, engine_options, *comm, nullptr));
  STRATA_RETURN_IF_ERROR(fill_parameters(*engine, *model, device->pool()));
  const Tokens tokens(options.batch * options.seq_length, config.vocab_size);
  STRATA_ASSIGN_OR_RETURN(const Outcome result, run_steps(*engine, options, tokens));
  const double flops = model_flops(config, plan.tokens_per_step, options.seq_length);
  const Machine machine = describe_machine(*device);
  if (options.json)
    fmt::print("{}\n", to_json(options, plan, machine, result, flops).dump());
  else
    print_report(to_report(options, plan, machine, result, flops), machine, false);
  return {};
}

}  // namespace

void add_bench_step(CLI::App& bench, std::function<int()>& action) {
  CLI::App* command = bench.add_subcommand("step", "Training steps of a model on one rank, random tokens");
  const auto options = std::make_shared<Options>();
  const auto count = [&](const char* name, auto& value, const char* description, int least) {
    command->add_option(name, value, description)->check(CLI::Range(least, 1 << 24))->capture_default_str();
  };
  command->add_flag("--json", options->json, "One JSON object on stdout instead of text");
  command->add_option("--model", options->model, "Whose shape")
      ->check(CLI::IsMember(bench_model_names()))
      ->capture_default_str();
  count("--layers", options->layers, "Blocks of the model; 0: all of them", 0);
  count("--steps", options->steps, "Timed steps", 1);
  count("--warmup", options->warmup, "Steps before those", 1);
  count("--batch", options->batch, "Sequences a micro-batch", 1);
  count("--micro-batches", options->micro_batches, "Micro-batches a step", 1);
  count("--seq-length", options->seq_length, "Tokens a sequence", 1);
  add_device_options(*command, options->device);
  command->add_option("--precision", options->precision, "fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command->add_option("--optimizer", options->optimizer, "Home of the optimizer state: none (the gpu tier), cpu or nvme")
      ->check(CLI::IsMember({"none", "cpu", "nvme"}))
      ->capture_default_str();
  command->add_option("--path", options->path, "nvme: folder of the state file")->capture_default_str();
  command->add_flag("--recompute", options->recompute, "Keep unit boundaries only and run forwards again");
  command->add_option("--peak-tflops", options->peak_tflops, "What the processor gives at most, for the utilisation")
      ->check(CLI::PositiveNumber);
  command->callback([options, &action] { action = [options] { return finish_command(measure(*options)); }; });
}

}  // namespace strata
