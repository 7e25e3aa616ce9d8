// Small trainings in one process: ranks are threads, data is a formula, the run folder is temporary.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/thread_communicator.h"
#include "runtime/rng.h"
#include "tests/machines/machines.h"
#include "trainer/checkpoint/load.h"
#include "trainer/trainer.h"

namespace strata {

// Tokens that a model can learn: each is a fixed function of the one before, with some noise.
class FormulaSource final : public DataSource {
 public:
  explicit FormulaSource(std::int64_t vocab) : vocab_(vocab) {}
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    const Philox draw(7, k);
    auto token = static_cast<std::int32_t>(draw.u32(0) % static_cast<std::uint32_t>(vocab_));
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = token;
      const bool noise = draw.u32(2 * i + 1) % 8 == 0;
      token = static_cast<std::int32_t>((noise ? draw.u32(2 * i + 2) : static_cast<std::uint32_t>(token * 5 + 3)) %
                                        static_cast<std::uint32_t>(vocab_));
    }
    return {};
  }
  std::uint64_t samples_per_epoch() const override { return 1u << 20; }
  std::int64_t vocab_size() const override { return vocab_; }

 private:
  std::int64_t vocab_;
};

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> next{0};
    path_ =
        (std::filesystem::temp_directory_path() / ("strata_test_" + std::to_string(getpid()) + "_" + std::to_string(next++)))
            .string();
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A Llama with grouped queries, an odd vocabulary and sizes that divide by nothing; 20 steps.
inline Config small_config(const std::string& folder) {
  Config c;
  c.run.folder = folder;
  c.model.type = Config::Model::Type::llama;
  c.model.vocab_size = 61;
  c.model.hidden_size = 40;
  c.model.num_layers = 3;
  c.model.num_heads = 4;
  c.model.num_kv_heads = 2;
  c.model.head_dim = 10;
  c.model.ffn_size = 100;
  c.model.tie_embeddings = true;
  c.training.steps = 20;
  c.training.seq_length = 24;
  c.training.micro_batch_size = 1;
  c.training.global_batch_size = 12;
  c.training.clip_grad = 1.0;
  c.optimizer.lr = 5e-3;
  c.scheduler.type = ScheduleKind::cosine;
  c.scheduler.warmup_steps = 3;
  c.device.threads = 1;
  c.checkpoint.save_final = true;
  c.logging.log_interval = 1000;
  c.logging.progress = AutoOnOff::off;
  return c;
}

struct RunResult {
  Status status;  // of rank 0, or the first rank that failed
  std::vector<Status> ranks;
  std::vector<double> losses;  // rank 0, by step
  std::vector<double> clips;
  std::vector<std::optional<double>> validation_losses;
  std::vector<StepMetrics> metrics;
  std::string digest;                                                                // of the newest checkpoint, if any
  std::optional<Plan> plan;                                                          // of rank 0
  std::size_t planned_gpu = 0, planned_cpu = 0, measured_gpu = 0, measured_cpu = 0;  // of rank 0
  std::size_t largest_gpu = 0, largest_cpu = 0;                                      // planned for the rank that needs the most
};

// Trains with `world` ranks as threads, each with a GPU of `machine`, or on the host where none is given. broken_off: after so
// many steps, with a checkpoint, although the config has more; 0: never. optimizer, make_model: instead of the config's.
inline RunResult run_training(Config config, int world, const std::shared_ptr<const DataSource>& data,
                              const std::shared_ptr<const DataSource>& validation = nullptr,
                              const testing::GpuMachine* machine = nullptr, int broken_off = 0,
                              const std::shared_ptr<const Optimizer>& optimizer = nullptr,
                              const std::function<std::unique_ptr<Model>()>& make_model = nullptr) {
  if (machine == nullptr) config.device.backend = Config::Device::Choice::host;  // also where there is a GPU
  ThreadGroup group(WorldSize{world});
  const testing::GpuCommunicators gpu_communicators;
  std::vector<Status> status(static_cast<std::size_t>(world));
  RunResult result;
  std::mutex largest;
  const auto rank_main = [&](int rank) {
    const std::unique_ptr<Communicator> comm = group.communicator(Rank{rank});
    const std::unique_ptr<Environment> environment = Environment::from_communicator(*comm, world);
    TrainerExtras extras;
    extras.train = data;
    extras.validation = validation;
    extras.optimizer = optimizer;
    if (make_model) extras.model = make_model();
    if (machine != nullptr) {
      extras.make_gpu = [machine, rank] { return Result<std::unique_ptr<GpuDriver>>(machine->make_driver_of(rank)); };
      extras.make_gpu_communicator = gpu_communicators.maker();
    }
    if (rank == 0)
      extras.on_step = [&](const StepMetrics& m) {
        result.losses.push_back(m.loss);
        result.clips.push_back(m.clip);
        result.validation_losses.push_back(m.validation_loss);
        result.metrics.push_back(m);
      };
    Result<std::unique_ptr<Trainer>> trainer = Trainer::create(config, *environment, std::move(extras));
    Status mine = trainer.status();
    if (mine.ok() && broken_off == 0) mine = (*trainer)->train();
    for (int i = 0; i < broken_off && mine.ok(); ++i) mine = (*trainer)->step().status();
    if (mine.ok() && broken_off > 0) mine = (*trainer)->save();
    if (mine.ok() && rank == 0) {
      result.plan = (*trainer)->plan();
      result.planned_gpu = (*trainer)->plan().gpu.high_water;
      result.planned_cpu = (*trainer)->plan().cpu.high_water;
      result.measured_gpu = (*trainer)->engine().memory(Tier::gpu).high_water;
      result.measured_cpu = (*trainer)->engine().memory(Tier::cpu).high_water;
    }
    if (mine.ok()) {
      const std::lock_guard lock(largest);
      result.largest_gpu = std::max(result.largest_gpu, (*trainer)->plan().gpu.high_water);
      result.largest_cpu = std::max(result.largest_cpu, (*trainer)->plan().cpu.high_water);
    }
    status[static_cast<std::size_t>(rank)] = mine;
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < world; ++r) threads.emplace_back(rank_main, r);
  rank_main(0);
  for (std::thread& t : threads) t.join();
  for (const Status& s : status)
    if (result.status.ok()) result.status = s;
  result.ranks = std::move(status);
  if (Result<std::string> found = find_checkpoint(config.run.folder); found.ok()) {
    Result<CheckpointReader> reader = CheckpointReader::open(*found);
    if (reader.ok()) {
      Result<std::string> digest = reader->digest();
      if (digest.ok()) result.digest = *digest;
    }
  }
  return result;
}

}  // namespace strata
