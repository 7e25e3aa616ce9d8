// What a run will need, known before anything is allocated: the engine's own code is rehearsed on the dry backend and every
// allocation is placed and counted. The run then gets exactly the planned bytes as its budgets: the same calls get the same
// addresses in both, so a plan never promises what the run cannot have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/engine.h"

namespace strata {

// Bytes per rank a user or the machine allows; absent: unlimited.
struct Budgets {
  std::optional<std::size_t> gpu, cpu, nvme;
  // What this rank may use of the host's memory: for the cpu tier, and on the host backend for both.
  std::optional<std::size_t> host_memory;
};

// What a plan needs to know to tell how the run wears the drives out; it decides nothing.
struct DriveUse {
  std::int64_t steps = 0;                  // updates still to make; 0: not known
  std::optional<std::uint64_t> endurance;  // bytes that all drives together are rated to have written
};

struct Plan {
  WorldSize world;
  Rank rank;                    // whose bytes these are
  std::int64_t parameters = 0;  // shared ones once, without padding
  std::int64_t units = 0;
  std::int64_t records = 0;          // of this rank
  std::int64_t tokens_per_step = 0;  // all ranks
  double flops_per_step = 0;         // all ranks: 6 * parameters * tokens, and 2 more where forwards run again
  Backend backend = Backend::host;
  int threads = 1;        // of a rank
  MemoryReport gpu, cpu;  // high_water is what the run needs and gets
  NvmeReport nvme;
  // Of each unit but the head: what it keeps of a micro-batch for its backward, and its input alone.
  std::vector<std::size_t> kept_bytes = {}, input_bytes = {};
  DriveUse drives;  // filled in by the caller: see drive_use_of()
  EngineOptions options;
  UpdatePlan update;  // of this rank: placements, schedule, and its forecast where rates are known

  std::size_t host_bytes() const { return cpu.high_water + (backend == Backend::host ? gpu.high_water : 0); }
};

// Pure: depends on its arguments alone; for cuda too it needs no GPU. Whether it fits is not decided here; see check_budgets().
// Budgets and rates matter where a home is absent. Activations: of some ways to keep them (more or fewer units that run their
// forward again, and as many units as must whose activations leave) the one with the shortest forecast step; without rates the
// first that fits of those with more in the gpu tier. Parameters and gradient sums then stay in the gpu tier as far as its
// budget goes (as if states took none of it that they need not); states stay in the gpu tier as far as its budget goes (where
// it is memory of its own), then in CPU memory, the rest on NVMe; the plan's options tell each record's home. Where NVMe has no
// room for that rest, parameters, gradient sums and activations make room in memory: states need twice as much on NVMe.
Result<Plan> make_plan(const Model& model, const EngineOptions& options, WorldSize world, Rank rank, int threads,
                       Backend backend, const Budgets& budgets = {});
// Bytes that this rank writes to NVMe in a step: states, parameters, gradients and activations at home there. A guess that was
// wrong (speculation) writes its records once more. Where units are frozen (optimizer.freeze): in the steps of the first
// choice.
std::uint64_t nvme_bytes_per_step(const Plan& plan);
// The same of all ranks, as if each were this one: shares differ by at most one block a unit.
std::uint64_t nvme_bytes_per_step_of_all(const Plan& plan);
// How many steps the drives are rated for; absent where nothing is written or the endurance is not known.
std::optional<std::int64_t> steps_of_drives(const Plan& plan);
// The rank that owns the most elements (shares differ by at most one block a unit): whose plan stands for all.
Rank largest_rank(const Model& model, WorldSize world, const EngineOptions& options);
// invalid_config naming every tier that does not fit, the inequality in numbers and the keys that would mend it.
Status check_budgets(const Plan& plan, const Budgets& budgets);

std::string format_plan(const Plan& plan, const Budgets& budgets);  // the memory table, the drives' wear, the update
std::string plan_to_json(const Plan& plan);

}  // namespace strata
