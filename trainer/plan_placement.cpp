#include "trainer/plan_placement.h"

#include <algorithm>
#include <functional>

namespace strata {
namespace {

// Chooses the unit homes that are left to the plan, with optimizer state at its farthest: gradient sums leave the gpu tier if
// they must (what the CPU updates they would anyway), then parameters of as few units as will do, evenly spread so that copying
// one overlaps the compute of several. Where CPU memory does not hold them, gradient sums go to NVMe, then parameters of as few
// units as will do. They do so too where NVMe has no room for the states that memory does not hold: with two slots a record,
// what a unit takes there is half of what the states take that get its memory.
class UnitPlacer {
 public:
  using Rehearsal = std::function<Result<Plan>(const EngineOptions&)>;
  // deal: as rehearse, with the states where they have room.
  UnitPlacer(EngineOptions options, std::size_t units, Rehearsal rehearse, Rehearsal deal, const Budgets& budgets)
      : options_(std::move(options)),
        units_(units),
        grads_may_be_on_nvme_(GradStore::may_be_on_nvme(options_.grads_dtype, options_.micro_batches, options_.vertical)),
        rehearse_(std::move(rehearse)),
        deal_(std::move(deal)),
        budgets_(budgets) {}

  Result<EngineOptions> run() {
    const bool grads = !options_.grads.home, params = !options_.params.home;
    if (grads) options_.grads.homes.assign(units_, Tier::gpu);
    if (params) options_.params.homes = streamed(0, 0);
    if (grads) {
      STRATA_ASSIGN_OR_RETURN(const bool fit, fits(gpu_overflow));
      if (!fit) options_.grads.homes.assign(units_, Tier::cpu);
    }
    std::size_t away = 0, on_nvme = 0;
    if (params) {
      STRATA_ASSIGN_OR_RETURN(away, least(units_, [&](std::size_t count) {
                                options_.params.homes = streamed(count, 0);
                                return fits(gpu_overflow);
                              }));
      options_.params.homes = streamed(away, 0);
    }
    STRATA_ASSIGN_OR_RETURN(const bool all_fit, fits(cpu_overflow));
    if (!all_fit && grads && grads_may_be_on_nvme_ && options_.grads.homes.front() == Tier::cpu)
      options_.grads.homes.assign(units_, Tier::nvme);
    if (!all_fit && params) {
      STRATA_ASSIGN_OR_RETURN(on_nvme, least(away, [&](std::size_t count) {
                                options_.params.homes = streamed(away, count);
                                return fits(cpu_overflow);
                              }));
      options_.params.homes = streamed(away, on_nvme);
    }
    if (!budgets_.nvme || options_.optimizer.home) return options_;
    return with_room_for_states(away, on_nvme);
  }

 private:
  static bool spread(std::size_t i, std::size_t count, std::size_t n) { return (i + 1) * count / n > i * count / n; }
  std::vector<Tier> streamed(std::size_t count, std::size_t on_nvme) const {
    std::vector<Tier> homes;
    std::size_t away = 0;
    for (std::size_t u = 0; u < units_; ++u) {
      const bool leaves = spread(u, count, units_);
      homes.push_back(!leaves ? Tier::gpu : spread(away, on_nvme, count) ? Tier::nvme : Tier::cpu);
      away += leaves;
    }
    return homes;
  }
  // away, on_nvme: units whose parameters are there so far.
  Result<EngineOptions> with_room_for_states(std::size_t away, std::size_t on_nvme) const {
    STRATA_ASSIGN_OR_RETURN(const Plan before, deal_(options_));
    if (nvme_overflow(before, budgets_) == 0.0) return options_;
    EngineOptions tried = options_;
    if (!options_.grads.home && grads_may_be_on_nvme_) tried.grads.homes.assign(units_, Tier::nvme);
    if (!options_.params.home) {
      const auto move = [&](std::size_t more) {
        tried.params.homes = streamed(std::max(away, on_nvme + more), on_nvme + more);
      };
      STRATA_ASSIGN_OR_RETURN(const std::size_t more, least(units_ - on_nvme, [&](std::size_t count) -> Result<bool> {
                                move(count);
                                STRATA_ASSIGN_OR_RETURN(const Plan plan, deal_(tried));
                                return strata::fits(plan, budgets_);
                              }));
      move(more);
    }
    STRATA_ASSIGN_OR_RETURN(const Plan after, deal_(tried));
    return nvme_overflow(after, budgets_) < nvme_overflow(before, budgets_) ? tried : options_;
  }
  Result<bool> fits(double (*overflow)(const Plan&, const Budgets&)) {
    STRATA_ASSIGN_OR_RETURN(const Plan plan, rehearse_(options_));
    return overflow(plan, budgets_) == 0.0;
  }

  EngineOptions options_;
  const std::size_t units_;
  const bool grads_may_be_on_nvme_;
  const Rehearsal rehearse_, deal_;
  const Budgets& budgets_;
};

// Fills the tiers. The rehearsal counts what the records' sizes alone do not tell (holes, windows that a home asks for); where
// it shows that a tier overflows, the tier gets that much less and the homes are dealt again.
class GradualPlacement {
 public:
  GradualPlacement(const PlanContext& context, const EngineOptions& options)
      : rehearse_([&](const std::vector<Tier>& homes, const UpdateShare& share) {
          EngineOptions tried = options;
          tried.optimizer.homes = homes;
          tried.optimizer.share = share;
          return rehearse(context, tried);
        }),
        share_(options.optimizer.share),
        fills_gpu_(context.has_separate_memory(options) && context.budgets.gpu),
        budgets_(context.budgets) {
    const auto states = static_cast<double>(options.optimizer.method->states().size());
    const StateFormat format = options.optimizer.method->state_format();
    const bool f32 = options.compute == DType::f32, copied = context.has_separate_memory(options);
    ActiveUnits units(options.optimizer.freeze, context.model.unit_count());
    units.move_to(1);
    // Of what a unit's states take, its part of the memory that it shares.
    const auto part = [&units, blocks = context.model.unit_count() - 2](int u) {
      if (!units.shares_states(u)) return 1.0;
      return units.is_block(u) ? static_cast<double>(units.blocks_at_once()) / blocks : 0.0;
    };
    for (const OptimizerRecord& record : cut_optimizer_records(
             make_layout(context.model, context.world, options.optimizer.groups, *options.optimizer.method), context.rank,
             options.zero_stage, options.optimizer.record_size, *options.optimizer.method, options.optimizer.groups)) {
      // What the optimizer keeps and, where the compute copy does not serve, p; in whole pages, long arrays apart from each
      // other.
      const double n = static_cast<double>(record.range.count), more = 4096.0 + (n >= 0x1p18 ? 65536.0 : 0.0);
      const double kept = states * static_cast<double>(format.bytes(record.states)) * part(record.unit);
      on_gpu_.push_back(kept + n * (f32 ? 0.0 : 4.0) + more);
      on_cpu_.push_back(kept + n * (f32 && !copied ? 0.0 : 4.0) + more);
    }
  }

  Result<Plan> run() {
    UpdateShare share = share_;
    if (!share.speculation) share.shadow_bytes = 0.0;  // states go before second copies
    STRATA_ASSIGN_OR_RETURN(std::optional<Plan> plan, placed_roughly(share));
    if (!plan) {
      STRATA_ASSIGN_OR_RETURN(plan, placed(share));
    }
    if (!plan && is_left_to_plan(share_)) {
      share.gpu_fraction = 0.0;  // needs no windows in the gpu tier
      STRATA_ASSIGN_OR_RETURN(plan, placed(share));
    }
    if (!plan) return rehearse_(std::vector<Tier>(on_cpu_.size(), Tier::nvme), share);
    if (share.speculation) return *std::move(plan);
    share.shadow_bytes = std::min(left(budgets_.cpu, plan->cpu.high_water), left(budgets_.host_memory, plan->host_bytes()));
    if (!may_copy(plan->options.optimizer.homes, share.shadow_bytes)) return *std::move(plan);
    STRATA_ASSIGN_OR_RETURN(Plan with_copies, rehearse_(plan->options.optimizer.homes, share));
    return fits(with_copies) ? std::move(with_copies) : *std::move(plan);
  }

 private:
  static constexpr int kAttempts = 8;
  static constexpr double kEndless = 1e300;

  // Places with few fractions tried, then chooses among all of them at the homes found; nothing if these need more memory.
  Result<std::optional<Plan>> placed_roughly(const UpdateShare& share) {
    UpdateShare rough = share;
    rough.tries = std::min(rough.tries, 2);
    STRATA_ASSIGN_OR_RETURN(std::optional<Plan> plan, placed(rough));
    if (!plan) return std::optional<Plan>();
    STRATA_ASSIGN_OR_RETURN(plan, rehearse_(plan->options.optimizer.homes, share));
    return fits(*plan) ? std::move(plan) : std::optional<Plan>();
  }

  // With as much in the gpu tier and in CPU memory as fits; nothing if that is nothing.
  Result<std::optional<Plan>> placed(const UpdateShare& share) {
    STRATA_ASSIGN_OR_RETURN(Plan on_nvme, rehearse_(std::vector<Tier>(on_cpu_.size(), Tier::nvme), share));
    double gpu = fills_gpu_ ? left(budgets_.gpu, on_nvme.gpu.high_water) : 0.0;
    double cpu = std::min(left(budgets_.cpu, on_nvme.cpu.high_water), left(budgets_.host_memory, on_nvme.host_bytes()));
    std::vector<Tier> in_memory, homes;
    for (int attempt = 0; attempt < kAttempts && gpu + cpu > 0.0; ++attempt) {
      // First without NVMe, whose windows would take the room of states.
      if (changes(in_memory, place_gradually(on_gpu_, on_cpu_, gpu, kEndless)) && may_fit_in_cpu(in_memory)) {
        STRATA_ASSIGN_OR_RETURN(Plan plan, rehearse_(in_memory, share));
        if (fits(plan)) return std::optional(std::move(plan));
      }
      if (!changes(homes, place_gradually(on_gpu_, on_cpu_, gpu, cpu))) break;
      STRATA_ASSIGN_OR_RETURN(Plan plan, rehearse_(homes, share));
      if (fits(plan)) return std::optional(std::move(plan));
      gpu = less(gpu, gpu_overflow(plan, budgets_), plan, Tier::gpu, on_gpu_);
      cpu = less(cpu, cpu_overflow(plan, budgets_), plan, Tier::cpu, on_cpu_);
    }
    return std::optional<Plan>();
  }

  static bool changes(std::vector<Tier>& homes, std::vector<Tier> others) {
    const bool changed = homes != others;
    homes = std::move(others);
    return changed;
  }
  // Whether the states alone do.
  bool may_fit_in_cpu(const std::vector<Tier>& homes) const {
    double bytes = 0.0;
    for (std::size_t r = 0; r < homes.size(); ++r)
      if (homes[r] == Tier::cpu) bytes += on_cpu_[r];
    return bytes <= std::min(left(budgets_.cpu, 0), left(budgets_.host_memory, 0));
  }
  // Whether any state of those in CPU memory has room for a second copy.
  bool may_copy(const std::vector<Tier>& homes, double room) const {
    for (std::size_t r = 0; r < homes.size(); ++r)
      if (homes[r] == Tier::cpu && on_cpu_[r] <= room) return true;
    return false;
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
  // What memory does not hold is on NVMe, whether that has the room or not.
  bool fits(const Plan& plan) const { return fits_in_memory(plan, budgets_); }

  std::function<Result<Plan>(const std::vector<Tier>&, const UpdateShare&)> rehearse_;
  const UpdateShare share_;
  std::vector<double> on_gpu_, on_cpu_;  // bytes of each record's state
  const bool fills_gpu_;                 // its tier is memory of its own, and has a budget
  const Budgets& budgets_;
};

}  // namespace

Result<Plan> place_states(const PlanContext& context, const EngineOptions& options) {
  EngineOptions chosen = options;
  if (!options.params.home || !options.grads.home) {
    const auto at_its_farthest = [&](const EngineOptions& tried) {
      EngineOptions with_home = tried;
      with_home.optimizer.home = options.optimizer.home.value_or(Tier::nvme);
      with_home.optimizer.rates = {};  // the CPU updates, and nothing is updated early: what the plan may always fall back to
      return rehearse(context, with_home);
    };
    const auto deal = [&](const EngineOptions& tried) {
      EngineOptions without_rates = tried;
      without_rates.optimizer.rates = {};
      return GradualPlacement(context, without_rates).run();
    };
    STRATA_ASSIGN_OR_RETURN(chosen, UnitPlacer(options, context.units(), at_its_farthest, deal, context.budgets).run());
  }
  if (chosen.optimizer.home) return rehearse_within(context, chosen);
  STRATA_ASSIGN_OR_RETURN(Plan plan, GradualPlacement(context, chosen).run());
  if (nvme_overflow(plan, context.budgets) == 0.0 || plan.update.gpu_fraction == 0.0 ||
      !is_left_to_plan(options.optimizer.share))
    return plan;
  chosen.optimizer.share.gpu_fraction = 0.0;  // its windows take the room of states
  return GradualPlacement(context, chosen).run();
}

}  // namespace strata
