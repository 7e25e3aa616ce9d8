// What a run on a GPU says of its resources: busy seconds of the GPU's streams, its sensors, and a trace with lanes of both
// processors.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

Config traced_config(const std::string& folder) {
  Config c = config_of({2, Tier::cpu, 4096, false}, folder, DType::f32);
  c.training.steps = 4;
  c.training.global_batch_size = 4;
  c.scheduler.warmup_steps = 1;
  c.logging.trace = true;
  c.logging.trace_steps = 2;
  return c;
}

// ctest starts a process for each test: one test, so that there is one training.
class GpuMetrics : public ::testing::Test {
 protected:
  void SetUp() override {
    if (testing::kRacesOnly) GTEST_SKIP() << "GpuEquivalence has its threads";
    run_ = run_training(traced_config(folder_.path()), 1, std::make_shared<FormulaSource>(61), nullptr,
                        &testing::gpu_machines()[0]);
    ASSERT_TRUE(run_.status.ok()) << run_.status.message();
    ASSERT_EQ(run_.metrics.size(), 4u);
  }
  double seconds() const {
    double sum = 0.0;
    for (const StepMetrics& m : run_.metrics) sum += m.step_seconds;
    return sum;
  }
  void every_step_has_busy_seconds_of_the_gpus_streams_and_a_bound() const;
  void sensors_are_in_the_metrics_but_not_of_every_step() const;
  void a_trace_has_operations_of_the_gpu_and_of_the_host() const;

  TemporaryFolder folder_;
  RunResult run_;
};

void GpuMetrics::every_step_has_busy_seconds_of_the_gpus_streams_and_a_bound() const {
  BusySeconds busy;
  for (const StepMetrics& m : run_.metrics) {
    EXPECT_GT(m.busy.compute, 0.0) << "step " << m.step;
    EXPECT_GT(m.bound().seconds, 0.0);
    busy.compute += m.busy.compute;
    busy.gpu_to_cpu += m.busy.gpu_to_cpu;
    busy.cpu_to_gpu += m.busy.cpu_to_gpu;
  }
  EXPECT_GT(busy.gpu_to_cpu, 0.0) << "gradients go down";
  EXPECT_GT(busy.cpu_to_gpu, 0.0) << "parameters come up";
  EXPECT_LE(busy.compute, seconds() * 1.05) << "one stream cannot work longer than the run lasted";
}

void GpuMetrics::sensors_are_in_the_metrics_but_not_of_every_step() const {
  std::ifstream file(folder_.path() + "/metrics.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  const auto first = nlohmann::json::parse(line);
  ASSERT_TRUE(first.contains("gpu")) << line;
  EXPECT_GT(first["gpu"]["power_watts"].get<double>(), 0.0);
  int read = 0;
  for (const StepMetrics& m : run_.metrics) read += m.gpu ? 1 : 0;
  EXPECT_LE(read, 1 + static_cast<int>(seconds()));
}

void GpuMetrics::a_trace_has_operations_of_the_gpu_and_of_the_host() const {
  std::map<int, std::string> lanes;
  std::map<std::string, std::set<std::string>> names;
  const auto trace = nlohmann::json::parse(std::ifstream(folder_.path() + "/trace.json"));
  for (const auto& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") lanes[event["tid"].get<int>()] = event["args"]["name"].get<std::string>();
    if (event["ph"] == "X") names[lanes[event["tid"].get<int>()]].insert(event["name"].get<std::string>());
  }
  EXPECT_TRUE(names["compute"].contains("attention_forward")) << "each operation has its name";
  EXPECT_TRUE(names["compute"].contains("linear_backward_weight"));
  EXPECT_FALSE(names["compute"].contains("busy"));
  EXPECT_TRUE(names["gpu to cpu"].contains("copy"));
  EXPECT_TRUE(names["cpu update"].contains("adamw"));
}

TEST_F(GpuMetrics, AndTheTraceShowBothProcessors) {
  every_step_has_busy_seconds_of_the_gpus_streams_and_a_bound();
  sensors_are_in_the_metrics_but_not_of_every_step();
  a_trace_has_operations_of_the_gpu_and_of_the_host();
}

}  // namespace
}  // namespace strata
