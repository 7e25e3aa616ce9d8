// strata::Trainer: what the program uses, and what another C++ program embeds.
//
//   auto environment = strata::Environment::from_launcher(config.parallel);        // one rank, or all under mpirun
//   auto trainer = strata::Trainer::create(config, **environment, {});             // model and data as the config says
//   strata::Status status = (*trainer)->train();
//
// A program's own model and data come in through TrainerExtras. All calls are collective and made from one thread a rank.
//
// Errors. Either every rank gets the same one (Status::is_on_every_rank), or the rank that failed has told the others
// (Communicator::abort), whose calls return peer_lost with its reason: no rank is left waiting.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "model/unit.h"
#include "trainer/config.h"
#include "trainer/data/source.h"
#include "trainer/engine.h"
#include "trainer/environment.h"
#include "trainer/metrics.h"
#include "trainer/plan.h"

namespace strata {

// Makes the driver of a rank's GPU.
using GpuDriverMaker = std::function<Result<std::unique_ptr<GpuDriver>>()>;

struct TrainerExtras {
  std::unique_ptr<Model> model;  // null: made from config.model
  std::shared_ptr<const Optimizer>
      optimizer;                            // null: made from config.optimizer, whose lr, weight_decay and groups hold for both
  std::shared_ptr<const DataSource> train;  // null: opened from config.data
  std::shared_ptr<const DataSource> validation;     // null: from config.data, which may have none
  std::function<void(const StepMetrics&)> on_step;  // on every rank, after every step
  std::function<void(const std::string&)> on_note;  // on rank 0: lines worth telling the user
  // On every rank, before anything is torn down: that waits for calls which hang in the kernel.
  std::function<void(const Status&)> on_error;
  GpuDriverMaker make_gpu;                     // null: CUDA's, as config.device says
  GpuCommunicatorMaker make_gpu_communicator;  // null: NCCL
};

class Trainer {
 public:
  // Resolves and checks the config, plans, checks the budgets, prepares the run folder, allocates, and resumes from the newest
  // checkpoint when config.checkpoint.resume says so. Errors: invalid_config for all that the user can mend by configuration.
  static Result<std::unique_ptr<Trainer>> create(const Config& config, Environment& environment, TrainerExtras extras);
  ~Trainer();

  // Trains until config.training.steps, a stop signal (stop_signal.h) or an error; writes metrics and checkpoints on the way.
  Status train();
  // One step; does not write metrics or checkpoints.
  Result<StepMetrics> step();
  // Mean validation loss over training.eval_iters micro-batches a rank. invalid_argument without validation data.
  Result<double> evaluate();
  // Writes checkpoints/step_<N> into the run folder and removes the oldest ones beyond checkpoint.keep_last.
  Status save();

  std::int64_t steps_done() const;
  std::uint64_t samples_consumed() const;
  bool stopped_by_signal() const;
  const Config& config() const;
  const Plan& plan() const;
  const Budgets& budgets() const;  // that the plan was checked against
  Engine& engine();

 private:
  class Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
