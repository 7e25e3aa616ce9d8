#include "trainer/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "trainer/plan_activations.h"

namespace strata {
namespace {

bool shares_parameters(const Model& model) {
  for (int u = 0; u < model.unit_count(); ++u)
    if (!model.unit(u).shared().empty()) return true;
  return false;
}

std::string parts(const MemoryReport& report) {
  std::string text;
  for (std::size_t c = 0; c < kCategories; ++c)
    if (report.peak_by[c] > 0)
      text +=
          (text.empty() ? "" : ", ") + std::string(to_string(static_cast<Category>(c))) + " " + format_bytes(report.peak_by[c]);
  return "at most " + text + ", not all at once";
}

std::string too_small(const std::string& key, std::size_t needed, std::size_t budget, const std::string& made_of,
                      const std::string& mend) {
  return fmt::format("{}: planned {} ({}) > budget {}: {} too much; {}", key, format_bytes(needed), made_of,
                     format_bytes(budget), format_bytes(needed - budget), mend);
}

// What could be done; `last` in any case.
std::string advice(const Plan& plan, const std::string& last) {
  std::string text;
  if (plan.options.activations.recompute == false) text += "set training.recompute: full, ";
  if (plan.options.micro_batch > 1) text += "lower training.micro_batch_size, ";
  if (plan.world.v > 1 && plan.options.zero_stage < 3) text += "raise zero.stage, ";
  return text.empty() ? last : text + "or " + last;
}

// What could leave the gpu tier; `last` in any case.
std::string gpu_advice(const Plan& plan, const std::string& last) {
  const auto in_gpu = [units = static_cast<std::size_t>(plan.units)](const UnitHomes& homes) {
    const std::vector<Tier> all = homes.of(units);
    return std::find(all.begin(), all.end(), Tier::gpu) != all.end();
  };
  std::string text;
  if (plan.options.activations.home == Tier::gpu) text += "set offload.activation.device: cpu, ";
  if (in_gpu(plan.options.grads)) text += "set offload.gradient.device: cpu, ";
  if (in_gpu(plan.options.params)) text += "set offload.param.device: cpu, ";
  return advice(plan, text.empty() ? last : text + "or " + last);
}

std::string nvme_parts(const NvmeReport& nvme) {
  if (nvme.states == nvme.bytes()) return "of state, two slots a record";
  std::string text;
  const auto add = [&text](const char* what, std::size_t bytes) {
    if (bytes > 0) text += (text.empty() ? "" : ", ") + std::string(what) + " " + format_bytes(bytes);
  };
  add("state, two slots a record,", nvme.states);
  add("parameters", nvme.params);
  add("gradients", nvme.grads);
  add("activations", nvme.activations);
  return text;
}

// What could stay in memory instead.
std::string nvme_advice(const Plan& plan, const Budgets& budgets) {
  const std::optional<Tier>& home = plan.options.optimizer.home;
  const std::string last = "use more ranks or raise memory.nvme";
  if (home == Tier::nvme) return "set offload.optimizer.device: auto, " + last;
  return !home && budgets.cpu ? "raise memory.cpu, " + last : last;
}

std::string home_of(const Plan& plan) {
  return plan.options.optimizer.home ? to_string(*plan.options.optimizer.home) : "the tiers as they have room";
}

struct PlacementCounts {
  std::int64_t gpu = 0, cpu = 0, nvme = 0, on_gpu = 0, direct = 0;
};
PlacementCounts count(const UpdatePlan& update) {
  PlacementCounts counts;
  for (const RecordPlacement& p : update.schedule.shape.placements) {
    ++(p.home == Tier::gpu ? counts.gpu : p.home == Tier::cpu ? counts.cpu : counts.nvme);
    counts.on_gpu += p.on_gpu && p.home != Tier::gpu;
  }
  for (std::size_t r = 0; r < update.schedule.shape.records.size(); ++r)
    counts.direct += route_of(update.schedule.shape, r).direct;
  return counts;
}

std::int64_t units_at(const UpdatePlan& update, Tier tier, Tier UnitPlacement::*what) {
  const std::vector<UnitPlacement>& all = update.schedule.shape.unit_placements;
  return std::count_if(all.begin(), all.end(), [=](const UnitPlacement& unit) { return unit.*what == tier; });
}

nlohmann::json units_to_json(const UpdatePlan& update, Tier tier) {
  return {{"params", units_at(update, tier, &UnitPlacement::params)}, {"grads", units_at(update, tier, &UnitPlacement::grads)}};
}

// What each resource works in a step, and the step, by the rates the plan knows.
std::string format_update(const UpdatePlan& update) {
  const PlacementCounts counts = count(update);
  std::string text;
  for (const Tier tier : {Tier::cpu, Tier::nvme}) {
    const std::int64_t params = units_at(update, tier, &UnitPlacement::params);
    const std::int64_t grads = units_at(update, tier, &UnitPlacement::grads);
    if (params + grads > 0)
      text += fmt::format("{} {}: parameters of {} and gradients of {} of {} units\n", tier == Tier::cpu ? "in" : "on",
                          to_string(tier), params, grads, update.schedule.shape.units);
  }
  text += fmt::format("update: {} records at home in gpu, {} in cpu, {} on nvme", counts.gpu, counts.cpu, counts.nvme);
  if (update.schedule.shape.separate_memory)
    text += fmt::format("; the GPU updates {} of those away from it ({:.0f} %)", counts.on_gpu, 100.0 * update.gpu_fraction);
  if (update.schedule.shape.gpu_direct)
    text += fmt::format("; {} of them pass between drives and GPU directly, without windows in cpu", counts.direct);
  if (update.speculating > 0)
    text += fmt::format("; {} begin before the norm is known ({} for second copies)", update.speculating,
                        format_bytes(shadow_bytes(update)));
  if (const std::vector<char>& frozen = update.schedule.shape.frozen; !frozen.empty())
    text += fmt::format("; {} of {} units are frozen", std::count(frozen.begin(), frozen.end(), 1), frozen.size());
  if (update.schedule.shape.two_passes) text += "; rows of matrices are measured first, behind the norm";
  text += "\n";
  if (!update.forecast) return text;
  const StepForecast& forecast = *update.forecast;
  text += fmt::format(
      "\n{:<14}{:>12}  of {:.4g} s a step{}, forecast from the rates given\n", "resource", "busy", forecast.step_seconds,
      update.waiting_forecast ? fmt::format(" ({:.4g} s where it waits for the norm)", update.waiting_forecast->step_seconds)
                              : "");
  for (std::size_t r = 0; r < kResources; ++r)
    if (forecast.busy[r] > 0.0)
      text += fmt::format("{:<14}{:>10.4g} s {:>5.0f} %{}\n", to_string(static_cast<Resource>(r)), forecast.busy[r],
                          100.0 * forecast.busy[r] / forecast.step_seconds,
                          static_cast<Resource>(r) == forecast.bound() ? "  the bound" : "");
  return text;
}

struct ActivationCounts {
  std::int64_t gpu = 0, cpu = 0, nvme = 0, recomputing = 0;
};
ActivationCounts count_activations(const Plan& plan) {
  ActivationCounts counts;
  for (const ActivationPlacement& p : plan.options.activations.of(plan.kept_bytes.size())) {
    ++(p.home == Tier::gpu ? counts.gpu : p.home == Tier::cpu ? counts.cpu : counts.nvme);
    counts.recomputing += p.recompute;
  }
  return counts;
}

std::string recomputation(const Plan& plan) {
  const auto could = static_cast<std::int64_t>(plan.kept_bytes.size()) - 1;
  const std::int64_t recomputing = count_activations(plan).recomputing;
  if (recomputing == 0) return "";
  if (recomputing == could) return " (forward run twice)";
  return fmt::format(" (forward of {} of {} units run twice)", recomputing, could);
}

std::string format_activations(const Plan& plan) {
  const ActivationCounts counts = count_activations(plan);
  if (counts.cpu + counts.nvme == 0) return "";
  return fmt::format("activations: of {} units {} keep theirs in gpu, {} in cpu, {} on nvme\n", plan.kept_bytes.size(),
                     counts.gpu, counts.cpu, counts.nvme);
}

nlohmann::json activations_to_json(const Plan& plan) {
  const ActivationCounts counts = count_activations(plan);
  return {{"gpu", counts.gpu}, {"cpu", counts.cpu}, {"nvme", counts.nvme}, {"recomputing", counts.recomputing}};
}

// In units of 1000, as drives are rated.
std::string format_rated(double bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  for (; bytes >= 1000.0 && unit + 1 < kUnits.size(); ++unit) bytes /= 1000.0;
  return fmt::format("{:.4g} {}", bytes, kUnits[unit]);
}

// In the rest of the run; a double, for it may pass 2^64.
double written_by_all(const Plan& plan) {
  return static_cast<double>(nvme_bytes_per_step_of_all(plan)) * static_cast<double>(plan.drives.steps);
}

std::string format_wear(const Plan& plan) {
  const std::uint64_t all = nvme_bytes_per_step_of_all(plan);
  if (all == 0) return "";
  std::string text = fmt::format("drives: a step writes {} of state a rank, {} in all", format_bytes(nvme_bytes_per_step(plan)),
                                 format_bytes(all));
  if (const std::int64_t steps = plan.drives.steps; steps > 0)
    text += fmt::format("; {} step{} {}", steps, steps == 1 ? "" : "s", format_rated(written_by_all(plan)));
  if (const std::optional<std::int64_t> last = steps_of_drives(plan))
    text += fmt::format("; rated for {}, they last {} steps", format_rated(static_cast<double>(*plan.drives.endurance)), *last);
  return text + "\n";
}

nlohmann::json wear_to_json(const Plan& plan) {
  const std::uint64_t all = nvme_bytes_per_step_of_all(plan);
  nlohmann::json j = {
      {"peak", plan.nvme.bytes()}, {"written_per_step", nvme_bytes_per_step(plan)}, {"written_per_step_by_all", all}};
  if (plan.drives.steps > 0) {
    j["steps"] = plan.drives.steps;
    j["written_by_all"] = written_by_all(plan);
  }
  if (plan.drives.endurance) j["endurance"] = *plan.drives.endurance;
  if (const std::optional<std::int64_t> last = steps_of_drives(plan)) j["steps_of_drives"] = *last;
  return j;
}

nlohmann::json update_to_json(const UpdatePlan& update) {
  const PlacementCounts counts = count(update);
  nlohmann::json j = {{"homes", {{"gpu", counts.gpu}, {"cpu", counts.cpu}, {"nvme", counts.nvme}}},
                      {"on_gpu_away_from_it", counts.on_gpu},
                      {"gpu_fraction", update.gpu_fraction},
                      {"speculating", update.speculating},
                      {"begins_between_units", update.between},
                      {"units_in_cpu", units_to_json(update, Tier::cpu)},
                      {"units_on_nvme", units_to_json(update, Tier::nvme)},
                      {"windows",
                       {{"cpu", update.schedule.windows.cpu},
                        {"gpu", update.schedule.windows.gpu},
                        {"staging", update.schedule.windows.staging},
                        {"gpu_staging", update.schedule.windows.gpu_staging},
                        {"params", update.schedule.windows.params},
                        {"grads", update.schedule.windows.grads}}},
                      {"instructions", update.schedule.instructions.size()}};
  if (const std::vector<char>& frozen = update.schedule.shape.frozen; !frozen.empty())
    j["frozen_units"] = std::count(frozen.begin(), frozen.end(), 1);
  if (update.schedule.shape.gpu_direct) j["between_nvme_and_gpu"] = counts.direct;
  if (!update.forecast) return j;
  j["forecast"] = {{"step_seconds", update.forecast->step_seconds}, {"bound", to_string(update.forecast->bound())}};
  if (update.waiting_forecast) j["forecast"]["step_seconds_without_speculation"] = update.waiting_forecast->step_seconds;
  for (std::size_t r = 0; r < kResources; ++r)
    j["forecast"]["busy_seconds"][to_string(static_cast<Resource>(r))] = update.forecast->busy[r];
  return j;
}

nlohmann::json tier_to_json(const MemoryReport& report) {
  nlohmann::json j = {{"peak", report.peak}, {"needed", report.high_water}};
  for (std::size_t c = 0; c < kCategories; ++c)
    if (report.peak_by[c] > 0) j[to_string(static_cast<Category>(c))] = report.peak_by[c];
  return j;
}

// What is asked of an optimizer that only CPUs can run.
Status keep_updates_off_gpu(EngineOptions& options) {
  const std::string name = options.optimizer.method->name();
  const std::optional<Tier> home = options.optimizer.home;
  if (!home || *home == Tier::gpu)
    return {Code::invalid_config, "offload.optimizer.device: is " + std::string(home ? "none" : "auto") + ", but " + name +
                                      " has no update on GPUs; set cpu or nvme"};
  UpdateShare& share = options.optimizer.share;
  if (share.gpu_fraction.value_or(0.0) > 0.0 || share.stride > 0)
    return {Code::invalid_config, "offload.optimizer: " + name + " has no update on GPUs; remove gpu_fraction and stride"};
  share.gpu_fraction = 0.0;
  return {};
}

Status check_matrices(const Model& model, WorldSize world, const EngineOptions& options) {
  const Optimizer& method = *options.optimizer.method;
  for (const UnitLayout& unit : make_layout(model, world, options.optimizer.groups, method).units)
    for (const ParamExtent& param : unit.params)
      if (param.matrices > 0) return method.accepts(param.matrices);
  return {};
}

Status check_groups(const Model& model, const ParamGroups& groups) {
  std::vector<std::string> names;
  for (int u = 0; u < model.unit_count(); ++u)
    for (const ParamSpec& p : model.unit(u).params()) names.push_back(p.name);
  const std::vector<std::string> unused = groups.unused(names);
  if (unused.empty()) return {};
  return {Code::invalid_config, "optimizer.groups: \"" + unused.front() +
                                    "\" is the first to match no parameter's name; names are such as " + names.front() +
                                    " and " + names[names.size() / 2]};
}

}  // namespace

Result<Plan> make_plan(const Model& model, const EngineOptions& asked, WorldSize world, Rank rank, int threads, Backend backend,
                       const Budgets& budgets) {
  EngineOptions options = asked;
  STRATA_RETURN_IF_ERROR(check_groups(model, options.optimizer.groups));
  STRATA_RETURN_IF_ERROR(check_matrices(model, world, options));
  if (backend == Backend::cuda && !options.optimizer.method->updates_on_gpu())
    STRATA_RETURN_IF_ERROR(keep_updates_off_gpu(options));
  const PlanContext context{model, world, rank, threads, backend, budgets};
  if (!options.order_is_planned) return place_activations(context, options);
  EngineOptions horizontal = options, vertical = options;
  horizontal.order_is_planned = vertical.order_is_planned = false;
  horizontal.vertical = false;
  vertical.vertical = true;
  Result<Plan> first = place_activations(context, horizontal);
  if (options.micro_batches == 1 || shares_parameters(model)) return first;
  Result<Plan> second = place_activations(context, vertical);
  if (!second.ok()) return first;
  if (!first.ok()) return second;
  if (fits(*first, budgets) != fits(*second, budgets)) return fits(*first, budgets) ? first : second;
  const std::optional<StepForecast>&a = first->update.forecast, &b = second->update.forecast;
  return a && b && b->step_seconds < a->step_seconds ? second : first;
}

Rank largest_rank(const Model& model, WorldSize world, const EngineOptions& options) {
  const StateLayout layout = make_layout(model, world, options.optimizer.groups, *options.optimizer.method);
  Rank largest;
  for (int r = 1; r < world.v; ++r)
    if (layout.owned(Rank{r}) > layout.owned(largest)) largest = Rank{r};
  return largest;
}

std::uint64_t nvme_bytes_per_step(const Plan& plan) {
  const UpdateShape& shape = plan.update.schedule.shape;
  double bytes = 0.0;
  for (std::size_t r = 0; r < shape.placements.size(); ++r)
    if (shape.placements[r].home == Tier::nvme && !is_frozen(shape, r)) bytes += state_bytes(shape, r);
  // Gradients are written once for every time they are read.
  for (const Instruction& instruction : plan.update.schedule.instructions)
    if (instruction.action == Action::write_params || instruction.action == Action::read_grads) bytes += instruction.amount;
  const std::vector<ActivationPlacement> kept = plan.options.activations.of(plan.kept_bytes.size());
  for (std::size_t u = 0; u < kept.size(); ++u)
    if (kept[u].home == Tier::nvme) bytes += static_cast<double>(plan.kept_bytes[u]) * plan.options.micro_batches;
  return static_cast<std::uint64_t>(bytes);
}

std::uint64_t nvme_bytes_per_step_of_all(const Plan& plan) {
  return nvme_bytes_per_step(plan) * static_cast<std::uint64_t>(plan.world.v);
}

std::optional<std::int64_t> steps_of_drives(const Plan& plan) {
  const std::uint64_t all = nvme_bytes_per_step_of_all(plan);
  if (all == 0 || !plan.drives.endurance) return std::nullopt;
  return static_cast<std::int64_t>(*plan.drives.endurance / all);
}

Status check_budgets(const Plan& plan, const Budgets& budgets) {
  std::string problems;
  const auto add = [&](const std::string& text) { problems += (problems.empty() ? "" : "\n") + text; };
  if (budgets.gpu && plan.gpu.high_water > *budgets.gpu)
    add(too_small("memory.gpu", plan.gpu.high_water, *budgets.gpu, parts(plan.gpu), gpu_advice(plan, "raise memory.gpu")));
  if (budgets.cpu && plan.cpu.high_water > *budgets.cpu)
    add(too_small("memory.cpu", plan.cpu.high_water, *budgets.cpu, parts(plan.cpu),
                  std::string(plan.options.optimizer.home == Tier::cpu ? "set offload.optimizer.device: nvme, "
                                                                       : "lower offload.optimizer.record_size, ") +
                      "or raise memory.cpu"));
  if (budgets.nvme && plan.nvme.bytes() > *budgets.nvme)
    add(too_small("memory.nvme", plan.nvme.bytes(), *budgets.nvme, nvme_parts(plan.nvme), nvme_advice(plan, budgets)));
  if (budgets.host_memory && plan.host_bytes() > *budgets.host_memory)
    add(too_small(
        "memory of this machine for one rank", plan.host_bytes(), *budgets.host_memory,
        (plan.backend == Backend::host ? "gpu tier " + format_bytes(plan.gpu.high_water) + ", " : std::string()) + "cpu tier " +
            format_bytes(plan.cpu.high_water),
        advice(plan, plan.options.optimizer.home == Tier::cpu ? "set offload.optimizer.device: nvme" : "use more machines")));
  return problems.empty() ? Status() : Status(Code::invalid_config, problems);
}

std::string format_plan(const Plan& plan, const Budgets& budgets) {
  std::string text = fmt::format(
      "{:.2f} M parameters in {} units, {} rank{} of {} thread{}, {}, ZeRO stage {}, {} compute, optimizer state in {} ({} "
      "records a rank)\n",
      static_cast<double>(plan.parameters) / 1e6, plan.units, plan.world.v, plan.world.v == 1 ? "" : "s", plan.threads,
      plan.threads == 1 ? "" : "s", to_string(plan.backend), plan.options.zero_stage, to_string(plan.options.compute),
      home_of(plan), plan.records);
  text += fmt::format("{} tokens a step, {:.3g} FLOP a step{}\n\n", plan.tokens_per_step, plan.flops_per_step,
                      recomputation(plan) + (plan.options.vertical ? ", micro-batches unit by unit" : ""));
  text += fmt::format("{:<6}{:<16}{:>12}{:>14}\n", "tier", "category", "peak/rank", "budget/rank");
  const auto tier = [&](Tier t, const MemoryReport& report, const std::optional<std::size_t>& budget) {
    for (std::size_t c = 0; c < kCategories; ++c)
      if (report.peak_by[c] > 0)
        text += fmt::format("{:<6}{:<16}{:>12}\n", to_string(t), to_string(static_cast<Category>(c)),
                            format_bytes(report.peak_by[c]));
    text += fmt::format("{:<6}{:<16}{:>12}\n", to_string(t), "at one time", format_bytes(report.peak));
    text += fmt::format("{:<6}{:<16}{:>12}{:>14}\n", to_string(t), "needed", format_bytes(report.high_water),
                        budget ? format_bytes(*budget) : "auto");
  };
  tier(Tier::gpu, plan.gpu, budgets.gpu);
  tier(Tier::cpu, plan.cpu, budgets.cpu);
  text += fmt::format("{:<6}{:<16}{:>12}{:>14}\n", "nvme", "state file", format_bytes(plan.nvme.bytes()),
                      budgets.nvme ? format_bytes(*budgets.nvme) : "auto");
  if (budgets.host_memory)
    text += fmt::format("host memory{}: {} of {} a rank\n", plan.backend == Backend::host ? " for both tiers" : "",
                        format_bytes(plan.host_bytes()), format_bytes(*budgets.host_memory));
  return text + format_wear(plan) + format_activations(plan) + format_update(plan.update);
}

std::string plan_to_json(const Plan& plan) {
  const nlohmann::json j = {{"world_size", plan.world.v},
                            {"backend", to_string(plan.backend)},
                            {"threads", plan.threads},
                            {"parameters", plan.parameters},
                            {"units", plan.units},
                            {"records", plan.records},
                            {"tokens_per_step", plan.tokens_per_step},
                            {"flops_per_step", plan.flops_per_step},
                            {"zero_stage", plan.options.zero_stage},
                            {"compute", to_string(plan.options.compute)},
                            {"activations", activations_to_json(plan)},
                            {"optimizer_home", home_of(plan)},
                            {"record_size", plan.options.optimizer.record_size},
                            {"update", update_to_json(plan.update)},
                            {"gpu", tier_to_json(plan.gpu)},
                            {"cpu", tier_to_json(plan.cpu)},
                            {"nvme", wear_to_json(plan)}};
  return j.dump(1) + "\n";
}

}  // namespace strata
