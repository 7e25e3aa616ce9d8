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

// One training for all tests.
class GpuMetrics : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    run_ = std::make_unique<RunResult>(run_training(traced_config(folder_->path()), 1, std::make_shared<FormulaSource>(61),
                                                    nullptr, &testing::gpu_machines()[0]));
  }
  static void TearDownTestSuite() {
    run_.reset();
    folder_.reset();
  }
  void SetUp() override {
    ASSERT_TRUE(run_->status.ok()) << run_->status.message();
    ASSERT_EQ(run_->metrics.size(), 4u);
  }
  static double seconds() {
    double sum = 0.0;
    for (const StepMetrics& m : run_->metrics) sum += m.step_seconds;
    return sum;
  }
  static inline std::unique_ptr<TemporaryFolder> folder_;
  static inline std::unique_ptr<RunResult> run_;
};

TEST_F(GpuMetrics, EveryStepHasBusySecondsOfTheGpusStreamsAndABound) {
  BusySeconds busy;
  for (const StepMetrics& m : run_->metrics) {
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

TEST_F(GpuMetrics, SensorsAreInTheMetricsButNotOfEveryStep) {
  std::ifstream file(folder_->path() + "/metrics.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  const auto first = nlohmann::json::parse(line);
  ASSERT_TRUE(first.contains("gpu")) << line;
  EXPECT_GT(first["gpu"]["power_watts"].get<double>(), 0.0);
  int read = 0;
  for (const StepMetrics& m : run_->metrics) read += m.gpu ? 1 : 0;
  EXPECT_LE(read, 1 + static_cast<int>(seconds()));
}

TEST_F(GpuMetrics, ATraceHasOperationsOfTheGpuAndOfTheHost) {
  std::map<int, std::string> lanes;
  std::map<std::string, std::set<std::string>> names;
  const auto trace = nlohmann::json::parse(std::ifstream(folder_->path() + "/trace.json"));
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

}  // namespace
}  // namespace strata
