#include "trainer/plan_activations.h"

#include <algorithm>

#include "trainer/plan_placement.h"

namespace strata {
namespace {

// A forecast that is not shorter by this factor is no reason to take another placement.
constexpr double kNoticeable = 0.99;
// Fractions of an update that are tried while placements are compared (UpdateShare).
constexpr int kTries = 6;

// Whether item i of n is among `count` that are evenly spread, the first one first.
bool chosen(std::size_t i, std::size_t count, std::size_t n) { return i * count % n < count; }

class ActivationSearch {
 public:
  ActivationSearch(const PlanContext& context, EngineOptions options)
      : context_(context), options_(std::move(options)), units_(context.model.body().size()) {}

  Result<Plan> run() {
    STRATA_RETURN_IF_ERROR(measure());
    const bool choose_recompute = !options_.activations.recompute, choose_home = !options_.activations.home;
    if (!choose_recompute && !choose_home) return place_states(context_, sized(options_.activations.of(units_)));
    std::vector<std::size_t> levels = {options_.activations.recompute == true ? units_ - 1 : 0};
    if (choose_recompute && units_ > 1) {
      if (units_ > 2) levels.push_back((units_ - 1) / 2);
      levels.push_back(units_ - 1);
    }
    const std::vector<Counts> all = candidates(levels, choose_home);
    for (const Counts& counts : all) {
      if (!could_be_best(counts)) continue;
      STRATA_ASSIGN_OR_RETURN(const Counts tried, as_few_away_as_must(counts));
      STRATA_RETURN_IF_ERROR(consider(tried));
    }
    // Memory would do, but NVMe has no room for the states that memory does not hold.
    if (!best_ && nearest_ && choose_home) {
      for (const std::size_t level : levels) {
        if (!could_be_best({.recomputing = level})) continue;
        STRATA_ASSIGN_OR_RETURN(const Counts tried, with_room_for_states(level));
        STRATA_RETURN_IF_ERROR(consider(tried));
      }
    }
    if (best_) return place_states(context_, with(*best_));
    if (nearest_) return place_states(context_, with(*nearest_));
    STRATA_ASSIGN_OR_RETURN(const Counts least_in_memory, as_few_away_as_must(all.back()));
    return place_states(context_, with(least_in_memory));
  }

 private:
  struct Counts {
    std::size_t recomputing = 0;
    std::size_t away = 0, on_nvme = 0;  // of those away, the first ones are on NVMe
    bool some_leave = false;            // as many as must; else none does
    bool params_stay = false;           // parameters whose home is left to the plan stay in the gpu tier
  };

  bool could_be_best(const Counts& counts) const {
    return !best_ || (options_.optimizer.rates.any() && compute_seconds(counts) < kNoticeable * step_);
  }

  // Takes it as best_, or nearest_, if it is better.
  Status consider(const Counts& counts) {
    STRATA_ASSIGN_OR_RETURN(const Plan farthest, at_its_farthest(counts));
    if (!fits_in_memory(farthest, context_.budgets)) return {};
    EngineOptions options = with(counts);
    options.optimizer.share.tries = kTries;
    STRATA_ASSIGN_OR_RETURN(const Plan plan, place_states(context_, options));
    if (!fits_in_memory(plan, context_.budgets)) return {};
    if (const double missing = nvme_overflow(plan, context_.budgets); missing > 0.0) {
      if (nearest_ && missing >= missing_) return {};
      nearest_ = counts;
      missing_ = missing;
      return {};
    }
    const double seconds = plan.update.forecast ? plan.update.forecast->step_seconds : 0.0;
    if (best_ && seconds >= kNoticeable * step_) return {};
    best_ = counts;
    step_ = seconds;
    return {};
  }

  // What units keep, with and without what their forward saves.
  Status measure() {
    EngineOptions plain = options_;
    plain.activations = {};
    plain.params.home = plain.grads.home = Tier::gpu;
    plain.optimizer.home = Tier::cpu;
    plain.optimizer.rates = {};  // nothing is to be chosen
    plain.optimizer.share = {};
    STRATA_ASSIGN_OR_RETURN(const Plan plan, rehearse(context_, plain));
    all_ = plan.kept_bytes;
    inputs_ = plan.input_bytes;
    return {};
  }

  // No step is shorter than this.
  double compute_seconds(const Counts& counts) const {
    const bool freezes = options_.optimizer.freeze != nullptr;
    const double forwards = static_cast<double>(units_) * (compute_amount_forward() + compute_amount_backward(false, freezes)) +
                            static_cast<double>(counts.recomputing) + compute_amount_head(freezes);
    return options_.optimizer.rates.seconds(Resource::compute, forwards * options_.micro_batches);
  }

  // In the order of preference where no rate tells which one is faster; else those first that compute least.
  std::vector<Counts> candidates(const std::vector<std::size_t>& levels, bool may_leave) const {
    std::vector<Counts> all = in_order_of_preference(levels, may_leave);
    const auto computes_less = [](const Counts& a, const Counts& b) { return a.recomputing < b.recomputing; };
    if (options_.optimizer.rates.any()) std::stable_sort(all.begin(), all.end(), computes_less);
    return all;
  }

  // The last one needs least of the gpu tier.
  std::vector<Counts> in_order_of_preference(const std::vector<std::size_t>& levels, bool may_leave) const {
    const bool params_may_leave = !options_.params.home;
    std::vector<Counts> all;
    for (const std::size_t level : levels) all.push_back({.recomputing = level, .params_stay = params_may_leave});
    if (may_leave) {
      for (auto level = levels.rbegin(); level != levels.rend(); ++level)
        all.push_back({.recomputing = *level, .some_leave = true, .params_stay = params_may_leave});
    }
    if (!params_may_leave) return all;
    for (const std::size_t level : levels) all.push_back({.recomputing = level});
    for (const std::size_t level : levels)
      if (may_leave) all.push_back({.recomputing = level, .away = units_ - 1, .some_leave = true});
    return all;
  }

  Result<Counts> as_few_away_as_must(Counts counts) const {
    if (!counts.some_leave) return counts;
    if (counts.away == 0) {
      STRATA_ASSIGN_OR_RETURN(counts.away, least(units_ - 1, [&](std::size_t away) -> Result<bool> {
                                Counts tried = counts;
                                tried.away = away;
                                STRATA_ASSIGN_OR_RETURN(const Plan plan, at_its_farthest(tried));
                                return gpu_overflow(plan, context_.budgets) == 0.0;
                              }));
    }
    STRATA_ASSIGN_OR_RETURN(counts.on_nvme, least(counts.away, [&](std::size_t on_nvme) -> Result<bool> {
                              Counts tried = counts;
                              tried.on_nvme = on_nvme;
                              STRATA_ASSIGN_OR_RETURN(const Plan plan, at_its_farthest(tried));
                              return cpu_overflow(plan, context_.budgets) == 0.0;
                            }));
    return counts;
  }

  // As few away, and on NVMe, as leave the states that NVMe does not hold room in memory (see UnitPlacer); all if none do.
  Result<Counts> with_room_for_states(std::size_t level) const {
    const auto fits_with = [&](std::size_t away) -> Result<bool> {
      EngineOptions tried = with({.recomputing = level, .away = away, .on_nvme = away});
      tried.optimizer.rates = {};
      STRATA_ASSIGN_OR_RETURN(const Plan plan, place_states(context_, tried));
      return fits(plan, context_.budgets);
    };
    std::size_t away = units_ - 1;
    STRATA_ASSIGN_OR_RETURN(const bool all_fit, fits_with(away));
    if (all_fit) {
      STRATA_ASSIGN_OR_RETURN(away, least(away, fits_with));
    }
    return Counts{.recomputing = level, .away = away, .on_nvme = away};
  }

  // Everything that need not be in the gpu tier or in CPU memory is not.
  Result<Plan> at_its_farthest(const Counts& counts) const {
    EngineOptions tried = with(counts);
    tried.optimizer.home = options_.optimizer.home.value_or(Tier::nvme);
    tried.optimizer.rates = {};
    const bool grads_on_nvme = GradStore::may_be_on_nvme(options_.grads_dtype, options_.micro_batches, options_.vertical);
    if (!tried.params.home) tried.params.home = Tier::nvme;
    if (!tried.grads.home) tried.grads.home = grads_on_nvme ? Tier::nvme : Tier::cpu;
    return rehearse(context_, tried);
  }

  EngineOptions with(const Counts& counts) const {
    std::vector<ActivationPlacement> placements(units_);
    std::size_t left = 0;
    for (std::size_t u = 0; u + 1 < units_; ++u) {
      if (!chosen(u, counts.away, units_ - 1)) continue;
      placements[u].home = left++ < counts.on_nvme ? Tier::nvme : Tier::cpu;
    }
    // From the last one: the first ones are those that leave.
    for (std::size_t u = units_; u-- > 1;) placements[u].recompute = chosen(units_ - 1 - u, counts.recomputing, units_ - 1);
    ActivationOptions activations = options_.activations;
    activations.units = placements;
    EngineOptions options = sized(activations.of(units_));
    if (counts.params_stay && !options.params.home) options.params.home = Tier::gpu;
    return options;
  }

  EngineOptions sized(const std::vector<ActivationPlacement>& placements) const {
    EngineOptions options = options_;
    const bool all_alike = options.activations.home && options.activations.recompute;
    if (!all_alike) options.activations.home.reset(), options.activations.recompute.reset();
    options.activations.units = all_alike ? std::vector<ActivationPlacement>() : placements;
    options.activations.bytes.clear();
    for (std::size_t u = 0; u < units_; ++u)
      options.activations.bytes.push_back(placements[u].recompute ? inputs_[u] : all_[u]);
    return options;
  }

  const PlanContext& context_;
  const EngineOptions options_;
  const std::size_t units_;
  std::vector<std::size_t> all_, inputs_;  // bytes of each unit and micro-batch
  std::optional<Counts> best_;             // of those that fit, the one with the shortest step
  double step_ = 0.0;
  std::optional<Counts> nearest_;  // of those that fit but for NVMe, the one that needs least of it
  double missing_ = 0.0;
};

}  // namespace

Result<Plan> place_activations(const PlanContext& context, const EngineOptions& options) {
  if (options.activations.recompute && options.activations.home == Tier::gpu) return place_states(context, options);
  return ActivationSearch(context, options).run();
}

}  // namespace strata
