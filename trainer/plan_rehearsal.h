// A plan of options that tell every home: the engine's own code on the dry backend.
#pragma once

#include <cstddef>
#include <functional>

#include "trainer/plan.h"

namespace strata {

// What every rehearsal of one plan has in common. References outlive it.
struct PlanContext {
  const Model& model;
  WorldSize world;
  Rank rank;
  int threads = 1;
  Backend backend = Backend::host;
  const Budgets& budgets;

  // The gpu tier is memory of its own.
  bool has_separate_memory(const EngineOptions& options) const { return backend == Backend::cuda || options.emulate; }
  std::size_t units() const { return static_cast<std::size_t>(model.unit_count()); }
};

// Bytes that a plan needs beyond the budgets; 0: it fits.
double gpu_overflow(const Plan& plan, const Budgets& budgets);
double cpu_overflow(const Plan& plan, const Budgets& budgets);
double nvme_overflow(const Plan& plan, const Budgets& budgets);
bool fits_in_memory(const Plan& plan, const Budgets& budgets);
bool fits(const Plan& plan, const Budgets& budgets);

// The least number in [0, most] for which `holds` does, if it does from some number on; `most` if for none.
Result<std::size_t> least(std::size_t most, const std::function<Result<bool>(std::size_t)>& holds);

// Whether the part of the records that the GPU updates is left to the plan.
bool is_left_to_plan(const UpdateShare& share);

// Of the units that could, the part whose backward runs their forward again.
double recomputed_share(const ActivationOptions& activations, std::size_t units);

Result<Plan> rehearse(const PlanContext& context, const EngineOptions& options);
// The same; where the plan may choose, the CPU updates everything that is not at home on the GPU if what the GPU updates would
// not fit there, and no more states have a second copy than fit.
Result<Plan> rehearse_within(const PlanContext& context, const EngineOptions& options);

}  // namespace strata
