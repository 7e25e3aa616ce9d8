// Executes training steps: forward and backward unit by unit, reduction, norm, update. The same code runs on the dry backend,
// which is how a plan knows every peak before anything is allocated (plan.h). Between two calls the arenas hold what create()
// put there and nothing else: a call's addresses do not depend on the calls before it, so a rehearsal stands for any of them.
//
// Called from one thread; collective: every rank makes the same calls. Error numerical leaves the parameters as they were
// before the step. After any other error the engine is unusable, and some records may have been updated: go on from a
// checkpoint.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/unit.h"
#include "nvme/state_files.h"
#include "offload/activation_store.h"
#include "offload/grad_store.h"
#include "offload/layout.h"
#include "offload/optimizer_store.h"
#include "offload/param_store.h"
#include "parallel/communicator.h"
#include "runtime/arena.h"
#include "runtime/host_mirror.h"
#include "runtime/stream.h"

namespace strata {

// Units, parameters and slices of a model over `world` ranks. groups: those that the parameters' numbers mean; they and the
// optimizer say where matrices may be cut.
StateLayout make_layout(const Model& model, WorldSize world, const ParamGroups& groups, const Optimizer& method);

// Puts device memory in reach of a group's collectives. timeout: how long a rank may be behind the others.
using GpuCommunicatorMaker = std::function<Result<std::unique_ptr<Communicator>>(
    std::unique_ptr<Communicator> host, GpuDriver& gpu, std::chrono::milliseconds timeout)>;
// NCCL (parallel/nccl_communicator.h), which one rank alone does not need.
Result<std::unique_ptr<Communicator>> connect_by_nccl(std::unique_ptr<Communicator> host, GpuDriver& gpu,
                                                      std::chrono::milliseconds timeout);

// Homes of what units have.
struct UnitHomes {
  std::optional<Tier> home = Tier::gpu;  // of every unit; absent: `homes` tells each
  std::vector<Tier> homes = {};
  std::vector<Tier> of(std::size_t units) const { return home ? std::vector<Tier>(units, *home) : homes; }
};

// What becomes of what units keep for their backward. The first unit has no input to start from and never runs twice; what
// the last one before the head keeps is needed next and never leaves.
struct ActivationOptions {
  std::optional<bool> recompute = false;        // keep only the units' inputs; absent: `units` tells each
  std::optional<Tier> home = Tier::gpu;         // absent: likewise
  std::vector<ActivationPlacement> units = {};  // of each but the head
  std::vector<std::size_t> bytes = {};          // of each, as a plan's rehearsal found (plan.h); needed where some leave
  std::vector<ActivationPlacement> of(std::size_t units) const;
};

struct EngineOptions {
  DType compute = DType::f32;      // f32 or bf16
  DType grads_dtype = DType::f32;  // of the sums that the update reads: f32 or bf16
  int zero_stage = 0;
  int prefetch_units = 1;
  std::int64_t micro_batch = 1;   // sequences
  int micro_batches = 1;          // a step and rank
  bool vertical = false;          // each unit computes all of them before the next one does; else one micro-batch after another
  bool order_is_planned = false;  // the plan sets `vertical`
  std::int64_t seq_length = 1;    // tokens
  double clip_norm = 1.0;         // 0: off
  bool always_speculate = false;  // else after steps without clipping (Engine::kStepsUnclipped)
  double delayed_share = 1.0;     // of the records, those that may be updated while the next forward computes
  UnitHomes params;               // of the compute copy
  UnitHomes grads;                // of gradient sums
  ActivationOptions activations;
  OptimizerStoreOptions optimizer;             // method, groups, homes, shares, rates; the rest is set by the engine
  std::vector<std::string> nvme_folders = {};  // where this rank's files are made
  int nvme_rank = 0;                           // in their names
  NvmeOptions nvme = {};
  std::vector<std::string> nvme_files(StateFileKind kind) const;
  // Whether anything may be there: what is left to a plan may.
  bool may_use_nvme() const;
  // Host backend: its operations take at least as long as at these rates, with a gpu tier that is a memory of its own.
  std::optional<Rates> emulate;
  std::size_t gpu_budget = 0;  // bytes
  std::size_t cpu_budget = 0;
  GpuCommunicatorMaker make_gpu_communicator = connect_by_nccl;  // on the cuda backend
  std::chrono::milliseconds gpu_communicator_timeout{600'000};
};

// Whether a step updated records before it knew the norm, guessing that it would not clip.
enum class Guess { none, kept, dropped };
const char* to_string(Guess guess);

struct StepResult {
  double loss = 0.0;       // mean over the step's tokens, all ranks
  double grad_norm = 0.0;  // before clipping
  double clip = 1.0;       // coefficient applied
  bool stop = false;       // some rank wishes to stop (see step())
  Guess guess = Guess::none;
};

// Seconds of work so far, by resource.
struct BusySeconds {
  double compute = 0, communication = 0, cpu_update = 0, gpu_update = 0, nvme_read = 0, nvme_write = 0, gpu_to_cpu = 0,
         cpu_to_gpu = 0;
};

// Bytes of files by what they hold.
struct NvmeReport {
  std::size_t states = 0, params = 0, grads = 0, activations = 0;
  std::size_t bytes() const { return states + params + grads + activations; }
};

class Engine {
 public:
  // comm: data-parallel group; the engine takes duplicates for its streams. All references outlive it.
  static Result<std::unique_ptr<Engine>> create(Device& device, const Model& model, const EngineOptions& options,
                                                Communicator& comm, std::vector<std::string>* notes);
  // Waits for what is enqueued; if that fails, tells the other ranks, and an error that no call returned is printed.
  ~Engine();

  const StateLayout& layout() const { return layout_; }
  const EngineOptions& options() const { return options_; }
  OptimizerStore& optimizer() { return *optimizer_; }
  const ActivationStore& activations() const { return *activations_; }
  // Of files, on all paths.
  NvmeReport nvme() const {
    return {optimizer_->nvme_bytes(), params_->nvme_bytes(), grads_->nvme_bytes(), activations_->nvme_bytes()};
  }
  // Of each file, since the last call.
  std::vector<PathTraffic> take_nvme_traffic();
  Communicator& control() { return *control_; }

  // Fills tokens and targets (R = micro_batch * seq_length each) of micro-batch `index` of this rank.
  using BatchLoader = std::function<Status(int index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets)>;
  // This rank's wish to end after the step, asked once its gradients are complete and shared with all ranks in the result.
  using StopWish = std::function<bool()>;
  // One step with learning rate lr; step is 1-based.
  // Error numerical: loss or norm is not finite; names the step and the first offending tensor; nothing was updated.
  Result<StepResult> step(std::int64_t step, double lr, const BatchLoader& load, const StopWish& wishes_to_stop);
  // Mean loss over `iterations` micro-batches a rank.
  Result<double> evaluate(int iterations, const BatchLoader& load);

  // Waits for everything enqueued; the first error of any stream.
  Status finish();
  // Dry backend: makes every call once that allocates, so that memory() then tells what a run will need.
  Status rehearse();
  MemoryReport memory(Tier tier) const { return tier == Tier::gpu ? gpu_.report() : cpu_.report(); }
  BusySeconds busy() const;

 private:
  Engine(Device& device, const Model& model, const EngineOptions& options);
  Status allocate(Communicator& comm, std::vector<std::string>* notes);
  // One micro-batch on its way through the units.
  struct Pass {
    int index = 0;  // in the step
    Batch batch;
    Tensor x;  // output of the last unit's forward, or gradient of the last one's backward
  };
  Pass make_pass(int index) const;
  TensorRef losses_of(const Pass& pass) const { return losses_.ref().rows(pass.index, 1).view({losses_.shape()[1]}); }
  // Unit after unit, each for all of the passes.
  void run_forward(std::span<Pass> passes, bool for_backward);
  // guess: of the update that begins with the step's last micro-batch.
  Status run_forward_and_backward(std::span<Pass> passes, float scale, std::int64_t step,
                                  const std::optional<UpdateStep>& guess);
  struct Leases {
    std::vector<ParamLease> held;
    std::vector<ConstTensorRef> params;
  };
  Leases acquire(int u);
  // Whether a forward moves anything on the streams that the update moves on.
  bool interleaves() const;
  std::vector<TensorRef> grads(int u);
  void prefetch_after(std::size_t position, std::size_t end);
  Status load_batch(int index, const BatchLoader& load);
  Batch batch_view(int slot) const;
  Result<StepResult> exchange(const StopWish& wishes_to_stop);
  Status diagnose(std::int64_t step, const StepResult& result);
  bool may_guess() const;
  Status check_order() const;
  Status check_gradients() const;
  Status allocate_scratch();
  Status allocate_activations(std::vector<std::string>* notes);
  // Where micro-batch `index` of a step is kept: one at a time, or all.
  int activation_slot(int index) const { return options_.vertical ? index : 0; }
  ComputeShape compute_shape() const;
  void emulate_rates();
  void pace_compute(double forwards);
  // Index of the first element that is not finite, or -1. What writes them is complete.
  Result<std::int64_t> nonfinite_in(const ConstTensorRef& values, Tier tier = Tier::gpu);
  Status first_bad_parameter(std::string* found);
  Status first_bad_activation(std::string* found);
  Status first_bad_gradient(std::string* found);
  bool dry() const { return device_.backend() == Backend::dry; }
  double sum_losses(int slot) const;
  std::vector<Stream*> streams() const;

  Device& device_;
  const Model& model_;
  EngineOptions options_;
  TierArena gpu_;
  TierArena cpu_;
  // Declared before the streams: a stream's destructor drains operations that use these.
  StateLayout layout_;
  std::unique_ptr<Communicator> data_comm_;
  std::unique_ptr<Communicator> control_;
  std::unique_ptr<Stream> compute_, comm_stream_, gpu_to_cpu_, cpu_update_, gpu_update_, cpu_to_gpu_, nvme_read_, nvme_write_,
      host_;
  std::unique_ptr<ParamStore> params_;
  std::unique_ptr<GradStore> grads_;
  std::unique_ptr<OptimizerStore> optimizer_;
  std::unique_ptr<ActivationStore> activations_;
  static constexpr int kStepsUnclipped = 8;
  int steps_unclipped_ = 0;         // the last ones
  std::vector<int> forward_order_;  // units in the order their parameters are needed, forward and backward
  HostMirror tokens_, targets_;     // i32 [micro_batches, R]
  HostMirror losses_;               // f32 [micro_batches, R]
  // Where the gpu tier is a memory of its own: scratch of the two streams whose kernels need it, and a piece of host memory
  // through which values are looked at when a loss is not finite.
  Buffer compute_scratch_, comm_scratch_, update_scratch_, window_;
};

}  // namespace strata
