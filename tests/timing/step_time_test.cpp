// Promises 2 and 3 on machines of given rates: a step takes what the plan says, and where one resource is the bottleneck,
// little more than it. Mutations that must fail: enqueue one record after another has ended; forget the rate of one stream; let
// a guess wait for the norm.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

using Speeds = Config::Device::Speeds;

struct Measured {
  double step = 0.0, planned = 1.0, bound = 0.0;
  std::string resource;
  std::string text() const {
    return "measured " + std::to_string(step) + " s, planned " + std::to_string(planned) + " s, " + resource + " " +
           std::to_string(bound) + " s";
  }
};

Measured measure(const Config& config) {
  Measured result;
  RunResult run = run_training(config, 1, std::make_shared<FormulaSource>(61));
  EXPECT_TRUE(run.status.ok()) << run.status.message();
  if (!run.status.ok() || !run.plan || !run.plan->update.forecast) return result;
  std::vector<double> seconds;
  for (std::size_t i = 2; i < run.metrics.size(); ++i) seconds.push_back(run.metrics[i].step_seconds);
  std::sort(seconds.begin(), seconds.end());
  const StepForecast& forecast = *run.plan->update.forecast;
  return {seconds[seconds.size() / 2], forecast.step_seconds, forecast.bound_seconds(), to_string(forecast.bound())};
}

// Bytes and parameters a second, so that a step takes some tenths of a second.
constexpr std::uint64_t kMB = 1000000;
Speeds speeds(std::uint64_t h2d, std::uint64_t d2h, std::int64_t cpu, std::int64_t gpu, std::uint64_t read, std::uint64_t write,
              double compute_unit) {
  return {.h2d = h2d * kMB,
          .d2h = d2h * kMB,
          .nvme_read = read * kMB,
          .nvme_write = write * kMB,
          .cpu_update = cpu * 100000,
          .gpu_update = gpu * 100000,
          .compute_unit = compute_unit};
}

struct Machine {
  const char* name;
  Speeds speeds;
  Tier home;
  bool has_bottleneck;
  Tier units = Tier::gpu;  // where parameters and gradient sums live
  int micro_batches = 1;
  bool vertical = false;
  Tier activations = Tier::gpu;
  bool recompute = false;
  bool params_on_nvme = false;
  bool rounded = false;  // compute and gradients in bf16
};

const std::vector<Machine> kMachines = {
    {"slow_h2d", speeds(8, 100, 60, 500, 200, 200, 0.0005), Tier::cpu, true},
    {"slow_d2h", speeds(100, 8, 60, 500, 200, 200, 0.0005), Tier::cpu, true},
    {"slow_cpu", speeds(20, 20, 10, 500, 200, 200, 0.0005), Tier::cpu, true},
    {"slow_gpu", speeds(60, 60, 10, 15, 200, 200, 0.0005), Tier::cpu, true},
    {"slow_read", speeds(100, 100, 60, 500, 16, 100, 0.0005), Tier::nvme, true},
    {"slow_write", speeds(100, 100, 60, 500, 100, 16, 0.0005), Tier::nvme, true},
    {"slow_disk", speeds(60, 60, 60, 500, 20, 20, 0.0005), Tier::nvme, true},
    {"slow_compute", speeds(60, 60, 60, 500, 60, 60, 0.02), Tier::nvme, true},
    {"slow_compute_states_in_cpu", speeds(60, 60, 20, 500, 60, 60, 0.02), Tier::cpu, true},
    {"balanced_cpu", speeds(30, 30, 20, 100, 60, 60, 0.008), Tier::cpu, false},
    {"balanced_nvme", speeds(30, 30, 30, 100, 40, 40, 0.008), Tier::nvme, false},
    {"units_in_cpu", speeds(40, 40, 20, 100, 200, 200, 0.008), Tier::cpu, false, Tier::cpu},
    {"units_in_cpu_slow_h2d", speeds(10, 100, 60, 500, 200, 200, 0.004), Tier::cpu, true, Tier::cpu},
    {"units_in_cpu_slow_d2h", speeds(100, 6, 60, 500, 200, 200, 0.004), Tier::nvme, false, Tier::cpu},
    {"units_in_cpu_horizontal", speeds(40, 20, 20, 100, 200, 200, 0.004), Tier::cpu, false, Tier::cpu, 3},
    {"units_in_cpu_vertical", speeds(20, 8, 20, 100, 200, 200, 0.004), Tier::cpu, false, Tier::cpu, 3, true},
    {"activations_in_cpu", speeds(20, 20, 60, 500, 200, 200, 0.008), Tier::cpu, false, Tier::gpu, 1, false, Tier::cpu},
    {"activations_in_cpu_slow_copies", speeds(2, 2, 200, 500, 200, 200, 0.004), Tier::gpu, false, Tier::gpu, 2, false,
     Tier::cpu},
    {"activations_on_nvme", speeds(60, 60, 60, 500, 8, 5, 0.006), Tier::cpu, false, Tier::cpu, 2, false, Tier::nvme},
    {"activations_on_nvme_vertical", speeds(40, 40, 60, 500, 4, 2, 0.006), Tier::cpu, false, Tier::cpu, 2, true, Tier::nvme,
     true},
    {"params_on_nvme", speeds(60, 60, 60, 500, 30, 30, 0.01), Tier::nvme, false, Tier::cpu, 1, false, Tier::gpu, false, true},
    {"params_on_nvme_slow_read", speeds(60, 60, 60, 500, 16, 20, 0.004), Tier::cpu, false, Tier::cpu, 2, false, Tier::cpu,
     false, true},
    {"all_on_nvme", speeds(60, 60, 60, 500, 20, 20, 0.01), Tier::nvme, false, Tier::nvme, 2, true, Tier::nvme, true, true,
     true},
};

// 0.4 M parameters in 50 records.
Config emulated(const std::string& folder, const Machine& machine) {
  Config c = small_config(folder);
  c.model.hidden_size = 96;
  c.model.num_layers = 4;
  c.model.head_dim = 24;
  c.model.ffn_size = 256;
  c.training.steps = 7;
  c.training.clip_grad = 0.0;  // so that what speculates does in every step
  c.training.global_batch_size = machine.micro_batches;
  c.model.tie_embeddings = !machine.vertical;
  c.training.seq_length = 8;
  c.offload.optimizer.device = machine.home;
  c.offload.param.device = c.offload.gradient.device = machine.units;
  if (machine.rounded) c.precision.compute = c.precision.gradients = DType::bf16;
  if (machine.params_on_nvme) c.offload.param.device = Tier::nvme;
  c.offload.activation.device = machine.activations;
  if (machine.recompute) c.training.recompute = Config::Training::Recompute::full;
  if (machine.vertical) c.offload.micro_batch_order = Config::Offload::Order::vertical;
  // A piece of parameters is a third of a record's state, and must take longer than a transfer takes anywhere.
  c.offload.optimizer.record_size = machine.params_on_nvme ? 32768 : 8192;
  c.device.emulate = machine.speeds;
  c.checkpoint.save_final = false;
  return c;
}

class StepTime : public ::testing::TestWithParam<Machine> {};

TEST_P(StepTime, IsWhatThePlanSays) {
  const Machine& machine = GetParam();
  const auto holds = [&](const Measured& m) {
    return std::abs(m.step / m.planned - 1.0) <= 0.1 && (!machine.has_bottleneck || m.step <= 1.1 * m.bound);
  };
  // Whatever else the host does can only make a step longer: one quiet run of three is enough.
  Measured m;
  for (int attempt = 0; attempt < 3 && !holds(m); ++attempt) {
    const TemporaryFolder folder;
    m = measure(emulated(folder.path(), machine));
  }
  RecordProperty("seconds", m.text());
  EXPECT_TRUE(holds(m)) << m.text();
}

INSTANTIATE_TEST_SUITE_P(Machines, StepTime, ::testing::ValuesIn(kMachines), [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace strata
