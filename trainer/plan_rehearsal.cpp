#include "trainer/plan_rehearsal.h"

#include <algorithm>

#include "parallel/dry_communicator.h"

namespace strata {
namespace {

constexpr std::size_t kUnlimited = std::size_t{1} << 60;

}  // namespace

double recomputed_share(const ActivationOptions& activations, std::size_t units) {
  if (units < 2) return 0.0;
  double recomputing = 0.0;
  for (const ActivationPlacement& placement : activations.of(units)) recomputing += placement.recompute;
  return recomputing / static_cast<double>(units - 1);
}

Result<Plan> rehearse(const PlanContext& context, const EngineOptions& wanted) {
  const auto& [model, world, rank, threads, backend, budgets] = context;
  EngineOptions options = wanted;
  options.gpu_budget = options.cpu_budget = kUnlimited;
  Device device(Backend::dry, threads, backend, options.emulate.has_value());
  if (const UpdateShare& share = options.optimizer.share;
      !device.has_separate_memory() && (share.stride > 0 || share.gpu_fraction))
    return Status(
        Code::invalid_config,
        "offload.optimizer: gpu_fraction and stride need a GPU: on the host backend one processor updates everything; "
        "remove them, or set device.emulate");
  DryCommunicator comm(rank, world);
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::create(device, model, options, comm, nullptr));
  STRATA_RETURN_IF_ERROR(engine->rehearse());
  Plan plan;
  plan.world = world;
  plan.rank = rank;
  plan.backend = backend;
  plan.threads = threads;
  plan.parameters = model.parameter_count();
  plan.units = model.unit_count();
  plan.records = static_cast<std::int64_t>(engine->optimizer().records().size());
  plan.tokens_per_step = options.micro_batch * options.micro_batches * options.seq_length * world.v;
  plan.flops_per_step = (6.0 + 2.0 * recomputed_share(options.activations, model.body().size())) *
                        static_cast<double>(plan.parameters) * static_cast<double>(plan.tokens_per_step);
  plan.gpu = engine->memory(Tier::gpu);
  plan.cpu = engine->memory(Tier::cpu);
  plan.nvme = engine->nvme();
  for (std::size_t u = 0; u < model.body().size(); ++u) {
    plan.kept_bytes.push_back(engine->activations().bytes(static_cast<int>(u)));
    plan.input_bytes.push_back(engine->activations().input_bytes(static_cast<int>(u)));
  }
  plan.options = options;
  plan.update = engine->optimizer().plan();
  return plan;
}

Result<std::size_t> least(std::size_t most, const std::function<Result<bool>(std::size_t)>& holds) {
  std::size_t low = 0, high = most;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    STRATA_ASSIGN_OR_RETURN(const bool held, holds(middle));
    if (held) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

bool is_left_to_plan(const UpdateShare& share) { return share.stride == 0 && !share.gpu_fraction; }

namespace {
double overflow(const std::optional<std::size_t>& budget, std::size_t used) {
  return budget && used > *budget ? static_cast<double>(used - *budget) : 0.0;
}
}  // namespace

double gpu_overflow(const Plan& plan, const Budgets& budgets) { return overflow(budgets.gpu, plan.gpu.high_water); }
double cpu_overflow(const Plan& plan, const Budgets& budgets) {
  return std::max(overflow(budgets.cpu, plan.cpu.high_water), overflow(budgets.host_memory, plan.host_bytes()));
}
double nvme_overflow(const Plan& plan, const Budgets& budgets) { return overflow(budgets.nvme, plan.nvme.bytes()); }

bool fits_in_memory(const Plan& plan, const Budgets& budgets) {
  return gpu_overflow(plan, budgets) + cpu_overflow(plan, budgets) == 0.0;
}
bool fits(const Plan& plan, const Budgets& budgets) {
  return fits_in_memory(plan, budgets) && nvme_overflow(plan, budgets) == 0.0;
}

Result<Plan> rehearse_within(const PlanContext& context, const EngineOptions& options) {
  const Budgets& budgets = context.budgets;
  EngineOptions chosen = options;
  UpdateShare& share = chosen.optimizer.share;
  STRATA_ASSIGN_OR_RETURN(Plan plan, rehearse(context, chosen));
  if (gpu_overflow(plan, budgets) > 0.0 && is_left_to_plan(share) && plan.update.gpu_fraction > 0.0) {
    share.gpu_fraction = 0.0;
    STRATA_ASSIGN_OR_RETURN(plan, rehearse(context, chosen));
  }
  if (share.speculation) return plan;
  // What is left may need windows that it did not; then there is room for none.
  for (double room = static_cast<double>(shadow_bytes(plan.update)) - cpu_overflow(plan, budgets);
       cpu_overflow(plan, budgets) > 0.0 && share.shadow_bytes > 0.0; room = 0.0) {
    share.shadow_bytes = std::max(0.0, room);
    STRATA_ASSIGN_OR_RETURN(plan, rehearse(context, chosen));
  }
  return plan;
}

}  // namespace strata
