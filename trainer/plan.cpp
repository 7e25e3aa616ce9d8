#include "trainer/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>

#include "parallel/dry_communicator.h"

namespace strata {
namespace {

constexpr std::size_t kUnlimited = std::size_t{1} << 60;

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
  if (!plan.options.recompute) text += "set training.recompute: full, ";
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
  if (in_gpu(plan.options.grads)) text += "set offload.gradient.device: cpu, ";
  if (in_gpu(plan.options.params)) text += "set offload.param.device: cpu, ";
  return advice(plan, text.empty() ? last : text + "or " + last);
}

std::string home_of(const Plan& plan) {
  return plan.options.optimizer.home ? to_string(*plan.options.optimizer.home) : "the tiers as they have room";
}

struct PlacementCounts {
  std::int64_t gpu = 0, cpu = 0, nvme = 0, on_gpu = 0;
};
PlacementCounts count(const UpdatePlan& update) {
  PlacementCounts counts;
  for (const RecordPlacement& p : update.schedule.shape.placements) {
    ++(p.home == Tier::gpu ? counts.gpu : p.home == Tier::cpu ? counts.cpu : counts.nvme);
    counts.on_gpu += p.on_gpu && p.home != Tier::gpu;
  }
  return counts;
}

std::int64_t units_in_cpu(const UpdatePlan& update, Tier UnitPlacement::*what) {
  const std::vector<UnitPlacement>& all = update.schedule.shape.unit_placements;
  return std::count_if(all.begin(), all.end(), [what](const UnitPlacement& unit) { return unit.*what == Tier::cpu; });
}

// Of states in CPU memory that are kept while a guess is open.
std::size_t shadow_bytes(const UpdatePlan& update) {
  double bytes = 0.0;
  for (std::size_t r = 0; r < update.schedule.shape.records.size(); ++r)
    if (needs_shadow(update.schedule.shape, r)) bytes += state_bytes(update.schedule.shape, r);
  return static_cast<std::size_t>(bytes);
}

// What each resource works in a step, and the step, by the rates the plan knows.
std::string format_update(const UpdatePlan& update) {
  const PlacementCounts counts = count(update);
  std::string text;
  const std::int64_t params = units_in_cpu(update, &UnitPlacement::params), grads = units_in_cpu(update, &UnitPlacement::grads);
  if (params + grads > 0)
    text +=
        fmt::format("in cpu: parameters of {} and gradients of {} of {} units\n", params, grads, update.schedule.shape.units);
  text += fmt::format("update: {} records at home in gpu, {} in cpu, {} on nvme", counts.gpu, counts.cpu, counts.nvme);
  if (update.schedule.shape.separate_memory)
    text += fmt::format("; the GPU updates {} of those away from it ({:.0f} %)", counts.on_gpu, 100.0 * update.gpu_fraction);
  if (update.speculating > 0)
    text += fmt::format("; {} begin before the norm is known ({} for second copies)", update.speculating,
                        format_bytes(shadow_bytes(update)));
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
      {"peak", plan.nvme_bytes}, {"written_per_step", nvme_bytes_per_step(plan)}, {"written_per_step_by_all", all}};
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
  nlohmann::json j = {
      {"homes", {{"gpu", counts.gpu}, {"cpu", counts.cpu}, {"nvme", counts.nvme}}},
      {"on_gpu_away_from_it", counts.on_gpu},
      {"gpu_fraction", update.gpu_fraction},
      {"speculating", update.speculating},
      {"units_in_cpu",
       {{"params", units_in_cpu(update, &UnitPlacement::params)}, {"grads", units_in_cpu(update, &UnitPlacement::grads)}}},
      {"windows",
       {{"cpu", update.schedule.windows.cpu},
        {"gpu", update.schedule.windows.gpu},
        {"staging", update.schedule.windows.staging},
        {"gpu_staging", update.schedule.windows.gpu_staging}}},
      {"instructions", update.schedule.instructions.size()}};
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

// Of options that tell every home.
Result<Plan> rehearse(const Model& model, const EngineOptions& wanted, WorldSize world, Rank rank, int threads,
                      Backend backend) {
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
  plan.flops_per_step =
      (options.recompute ? 8.0 : 6.0) * static_cast<double>(plan.parameters) * static_cast<double>(plan.tokens_per_step);
  plan.gpu = engine->memory(Tier::gpu);
  plan.cpu = engine->memory(Tier::cpu);
  plan.nvme_bytes = engine->optimizer().nvme_bytes();
  plan.options = options;
  plan.update = engine->optimizer().plan();
  return plan;
}

bool is_left_to_plan(const UpdateShare& share) { return share.stride == 0 && !share.gpu_fraction; }

double overflow(const std::optional<std::size_t>& budget, std::size_t used) {
  return budget && used > *budget ? static_cast<double>(used - *budget) : 0.0;
}
double gpu_overflow(const Plan& plan, const Budgets& budgets) { return overflow(budgets.gpu, plan.gpu.high_water); }
double cpu_overflow(const Plan& plan, const Budgets& budgets) {
  return std::max(overflow(budgets.cpu, plan.cpu.high_water), overflow(budgets.host_memory, plan.host_bytes()));
}

// The same; where the plan may choose, the CPU updates everything that is not at home on the GPU if what the GPU updates would
// not fit there, and no more states have a second copy than fit.
Result<Plan> rehearse_within(const Model& model, const EngineOptions& options, WorldSize world, Rank rank, int threads,
                             Backend backend, const Budgets& budgets) {
  EngineOptions chosen = options;
  UpdateShare& share = chosen.optimizer.share;
  STRATA_ASSIGN_OR_RETURN(Plan plan, rehearse(model, chosen, world, rank, threads, backend));
  if (gpu_overflow(plan, budgets) > 0.0 && is_left_to_plan(share) && plan.update.gpu_fraction > 0.0) {
    share.gpu_fraction = 0.0;
    STRATA_ASSIGN_OR_RETURN(plan, rehearse(model, chosen, world, rank, threads, backend));
  }
  if (share.speculation) return plan;
  // What is left may need windows that it did not; then there is room for none.
  for (double room = static_cast<double>(shadow_bytes(plan.update)) - cpu_overflow(plan, budgets);
       cpu_overflow(plan, budgets) > 0.0 && share.shadow_bytes > 0.0; room = 0.0) {
    share.shadow_bytes = std::max(0.0, room);
    STRATA_ASSIGN_OR_RETURN(plan, rehearse(model, chosen, world, rank, threads, backend));
  }
  return plan;
}

// Chooses the unit homes that are left to the plan, with optimizer state at its farthest: gradient sums leave the gpu tier if
// they must (what the CPU updates they would anyway), then parameters of as few units as will do, evenly spread so that copying
// one overlaps the compute of several.
class UnitPlacer {
 public:
  using Rehearsal = std::function<Result<Plan>(const EngineOptions&)>;
  UnitPlacer(EngineOptions options, std::size_t units, Rehearsal rehearse, const Budgets& budgets)
      : options_(std::move(options)), units_(units), rehearse_(std::move(rehearse)), budgets_(budgets) {}

  Result<EngineOptions> run() {
    const bool grads = !options_.grads.home, params = !options_.params.home;
    if (grads) options_.grads.homes.assign(units_, Tier::gpu);
    if (params) options_.params.homes = streamed(0);
    if (grads) {
      STRATA_ASSIGN_OR_RETURN(const bool fits, this->fits());
      if (!fits) options_.grads.homes.assign(units_, Tier::cpu);
    }
    if (!params) return options_;
    std::size_t fewest = 0, enough = units_;
    while (fewest < enough) {
      const std::size_t middle = (fewest + enough) / 2;
      options_.params.homes = streamed(middle);
      STRATA_ASSIGN_OR_RETURN(const bool fits, this->fits());
      if (fits) {
        enough = middle;
      } else {
        fewest = middle + 1;
      }
    }
    options_.params.homes = streamed(enough);
    return options_;
  }

 private:
  std::vector<Tier> streamed(std::size_t count) const {
    std::vector<Tier> homes;
    for (std::size_t u = 0; u < units_; ++u)
      homes.push_back((u + 1) * count / units_ > u * count / units_ ? Tier::cpu : Tier::gpu);
    return homes;
  }
  Result<bool> fits() {
    if (!budgets_.gpu) return true;
    STRATA_ASSIGN_OR_RETURN(const Plan plan, rehearse_(options_));
    return plan.gpu.high_water <= *budgets_.gpu;
  }

  EngineOptions options_;
  const std::size_t units_;
  const Rehearsal rehearse_;
  const Budgets& budgets_;
};

// Fills the tiers. The rehearsal counts what the records' sizes alone do not tell (holes, windows that a home asks for); where
// it shows that a tier overflows, the tier gets that much less and the homes are dealt again.
class GradualPlacement {
 public:
  GradualPlacement(const Model& model, const EngineOptions& options, WorldSize world, Rank rank, int threads, Backend backend,
                   const Budgets& budgets)
      : rehearse_([&, world, rank, threads, backend](const std::vector<Tier>& homes, const UpdateShare& share) {
          EngineOptions tried = options;
          tried.optimizer.homes = homes;
          tried.optimizer.share = share;
          return rehearse(model, tried, world, rank, threads, backend);
        }),
        share_(options.optimizer.share),
        fills_gpu_((backend == Backend::cuda || options.emulate) && budgets.gpu),
        budgets_(budgets) {
    const bool f32 = options.compute == DType::f32, copied = backend == Backend::cuda || options.emulate;
    for (const OptimizerRecord& record :
         cut_optimizer_records(make_layout(model, world), rank, options.zero_stage, options.optimizer.record_size)) {
      // m, v and, where the compute copy does not serve, p; in whole pages, long arrays apart from each other.
      const double n = static_cast<double>(record.range.count), more = 4096.0 + (n >= 0x1p18 ? 65536.0 : 0.0);
      on_gpu_.push_back(n * (f32 ? 8.0 : 12.0) + more);
      on_cpu_.push_back(n * (f32 && !copied ? 8.0 : 12.0) + more);
    }
  }

  Result<Plan> run() {
    UpdateShare share = share_;
    if (!share.speculation) share.shadow_bytes = 0.0;  // states go before second copies
    STRATA_ASSIGN_OR_RETURN(std::optional<Plan> plan, placed(share));
    if (!plan && is_left_to_plan(share_)) {
      share.gpu_fraction = 0.0;  // needs no windows in the gpu tier
      STRATA_ASSIGN_OR_RETURN(plan, placed(share));
    }
    if (!plan) return rehearse_(std::vector<Tier>(on_cpu_.size(), Tier::nvme), share);
    if (share.speculation) return *std::move(plan);
    share.shadow_bytes = std::min(left(budgets_.cpu, plan->cpu.high_water), left(budgets_.host_memory, plan->host_bytes()));
    STRATA_ASSIGN_OR_RETURN(Plan with_copies, rehearse_(plan->options.optimizer.homes, share));
    return fits(with_copies) ? std::move(with_copies) : *std::move(plan);
  }

 private:
  static constexpr int kAttempts = 8;
  static constexpr double kEndless = 1e300;

  // With as much in the gpu tier and in CPU memory as fits; nothing if that is nothing.
  Result<std::optional<Plan>> placed(const UpdateShare& share) {
    STRATA_ASSIGN_OR_RETURN(Plan on_nvme, rehearse_(std::vector<Tier>(on_cpu_.size(), Tier::nvme), share));
    double gpu = fills_gpu_ ? left(budgets_.gpu, on_nvme.gpu.high_water) : 0.0;
    double cpu = std::min(left(budgets_.cpu, on_nvme.cpu.high_water), left(budgets_.host_memory, on_nvme.host_bytes()));
    for (int attempt = 0; attempt < kAttempts && gpu + cpu > 0.0; ++attempt) {
      // First without NVMe, whose windows would take the room of states.
      STRATA_ASSIGN_OR_RETURN(Plan in_memory, rehearse_(place_gradually(on_gpu_, on_cpu_, gpu, kEndless), share));
      if (fits(in_memory)) return std::optional(std::move(in_memory));
      STRATA_ASSIGN_OR_RETURN(Plan plan, rehearse_(place_gradually(on_gpu_, on_cpu_, gpu, cpu), share));
      if (fits(plan)) return std::optional(std::move(plan));
      gpu = less(gpu, gpu_overflow(plan, budgets_), plan, Tier::gpu, on_gpu_);
      cpu = less(cpu, cpu_overflow(plan, budgets_), plan, Tier::cpu, on_cpu_);
    }
    return std::optional<Plan>();
  }

  static double left(const std::optional<std::size_t>& budget, std::size_t used) {
    if (!budget) return kEndless;
    return *budget > used ? static_cast<double>(*budget - used) : 0.0;
  }
  // What a tier that overflowed may hold: so much less than it held that at least one record must go.
  static double less(double room, double overflow, const Plan& plan, Tier tier, const std::vector<double>& bytes) {
    if (overflow == 0.0) return room;
    double held = 0.0;
    const std::vector<RecordPlacement>& placements = plan.update.schedule.shape.placements;
    for (std::size_t r = 0; r < placements.size(); ++r)
      if (placements[r].home == tier) held += bytes[r];
    return std::max(0.0, held - overflow);
  }
  bool fits(const Plan& plan) const { return gpu_overflow(plan, budgets_) + cpu_overflow(plan, budgets_) == 0.0; }

  std::function<Result<Plan>(const std::vector<Tier>&, const UpdateShare&)> rehearse_;
  const UpdateShare share_;
  std::vector<double> on_gpu_, on_cpu_;  // bytes of each record's state
  const bool fills_gpu_;                 // its tier is memory of its own, and has a budget
  const Budgets& budgets_;
};

}  // namespace

Result<Plan> make_plan(const Model& model, const EngineOptions& options, WorldSize world, Rank rank, int threads,
                       Backend backend, const Budgets& budgets) {
  EngineOptions chosen = options;
  if (!options.params.home || !options.grads.home) {
    const auto at_its_farthest = [&](const EngineOptions& tried) {
      EngineOptions with_home = tried;
      with_home.optimizer.home = options.optimizer.home.value_or(Tier::nvme);
      return rehearse_within(model, with_home, world, rank, threads, backend, budgets);
    };
    STRATA_ASSIGN_OR_RETURN(chosen,
                            UnitPlacer(options, static_cast<std::size_t>(model.unit_count()), at_its_farthest, budgets).run());
  }
  if (chosen.optimizer.home) return rehearse_within(model, chosen, world, rank, threads, backend, budgets);
  return GradualPlacement(model, chosen, world, rank, threads, backend, budgets).run();
}

Rank largest_rank(const Model& model, WorldSize world) {
  const StateLayout layout = make_layout(model, world);
  Rank largest;
  for (int r = 1; r < world.v; ++r)
    if (layout.owned(Rank{r}) > layout.owned(largest)) largest = Rank{r};
  return largest;
}

std::uint64_t nvme_bytes_per_step(const Plan& plan) {
  const UpdateShape& shape = plan.update.schedule.shape;
  double bytes = 0.0;
  for (std::size_t r = 0; r < shape.placements.size(); ++r)
    if (shape.placements[r].home == Tier::nvme) bytes += state_bytes(shape, r);
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
  if (budgets.nvme && plan.nvme_bytes > *budgets.nvme)
    add(too_small("memory.nvme", plan.nvme_bytes, *budgets.nvme, "two slots a record", "use more ranks or raise memory.nvme"));
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
                      plan.options.recompute ? " (forward run twice)" : "");
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
  text += fmt::format("{:<6}{:<16}{:>12}{:>14}\n", "nvme", "state file", format_bytes(plan.nvme_bytes),
                      budgets.nvme ? format_bytes(*budgets.nvme) : "auto");
  if (budgets.host_memory)
    text += fmt::format("host memory{}: {} of {} a rank\n", plan.backend == Backend::host ? " for both tiers" : "",
                        format_bytes(plan.host_bytes()), format_bytes(*budgets.host_memory));
  return text + format_wear(plan) + format_update(plan.update);
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
                            {"recompute", plan.options.recompute},
                            {"optimizer_home", home_of(plan)},
                            {"record_size", plan.options.optimizer.record_size},
                            {"update", update_to_json(plan.update)},
                            {"gpu", tier_to_json(plan.gpu)},
                            {"cpu", tier_to_json(plan.cpu)},
                            {"nvme", wear_to_json(plan)}};
  return j.dump(1) + "\n";
}

}  // namespace strata
