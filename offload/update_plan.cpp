#include "offload/update_plan.h"

#include <algorithm>
#include <cmath>

namespace strata {
namespace {

// A forecast that is not shorter by this factor is no reason to move another record.
constexpr double kNoticeable = 0.9995;
// Nor is one that is not shorter by this factor a reason to speculate.
constexpr double kWorthCopies = 0.99;

std::vector<RecordPlacement> placements_of(const std::vector<Tier>& homes) {
  std::vector<RecordPlacement> placements;
  for (const Tier home : homes) placements.push_back({home, home == Tier::gpu});
  return placements;
}

// The last units' records first: a backward gives their gradients first.
std::vector<char> speculating(const UpdateShape& shape, double fraction, double shadow_bytes) {
  std::vector<std::size_t> can;
  for (std::size_t r = shape.records.size(); r-- > 0;)
    if (can_speculate(shape, r)) can.push_back(r);
  const auto wanted = static_cast<std::size_t>(std::llround(fraction * static_cast<double>(can.size())));
  std::vector<char> chosen(shape.records.size(), 0);
  for (std::size_t i = 0; i < wanted; ++i) {
    if (shape.placements[can[i]].home == Tier::cpu && (shadow_bytes -= state_bytes(shape, can[i])) < 0.0) break;
    chosen[can[i]] = 1;
  }
  return chosen;
}

struct Fractions {
  double gpu = 0.0, speculation = 0.0;
};

UpdatePlan plan_with(UpdateShape shape, std::vector<RecordPlacement> placements, Fractions fractions, double shadow_bytes,
                     const ComputeShape& compute, const GradientTimes& times, const Rates& rates) {
  shape.placements = std::move(placements);
  shape.speculates = {};
  UpdatePlan plan;
  plan.gpu_fraction = fractions.gpu;
  plan.between = compute.update_between;
  std::vector<char> speculates = speculating(shape, fractions.speculation, shadow_bytes);
  plan.speculating = static_cast<int>(std::count(speculates.begin(), speculates.end(), 1));
  if (plan.speculating > 0) shape.speculates = std::move(speculates);
  plan.schedule = make_update_schedule(shape, full_windows(shape), rates, times);
  if (rates.any()) plan.forecast = forecast_step(plan.schedule, compute, rates);
  return plan;
}

// Nothing that an update does could make the step noticeably shorter.
bool is_bound_by_compute(const StepForecast& forecast) {
  return forecast.busy[static_cast<std::size_t>(Resource::compute)] >= kNoticeable * forecast.step_seconds;
}

// For its steps that do not speculate.
UpdatePlan with_waiting(UpdatePlan plan, const ComputeShape& compute, const GradientTimes& times, const Rates& rates) {
  if (plan.speculating == 0) return plan;
  UpdateShape shape = plan.schedule.shape;
  shape.speculates = {};
  plan.waiting = make_update_schedule(shape, plan.schedule.windows, rates, times);
  if (rates.any()) plan.waiting_forecast = forecast_step(*plan.waiting, compute, rates);
  return plan;
}

}  // namespace

std::vector<Tier> place_gradually(const std::vector<double>& bytes_on_gpu, const std::vector<double>& bytes_on_cpu, double gpu,
                                  double cpu) {
  // The backward ends with the first unit, so its gradients come last.
  std::vector<Tier> homes;
  for (std::size_t r = 0; r < bytes_on_gpu.size(); ++r) {
    if (bytes_on_gpu[r] <= gpu) {
      homes.push_back(Tier::gpu);
      gpu -= bytes_on_gpu[r];
    } else if (gpu = 0.0; bytes_on_cpu[r] <= cpu) {
      homes.push_back(Tier::cpu);
      cpu -= bytes_on_cpu[r];
    } else {
      cpu = 0.0;
      homes.push_back(Tier::nvme);
    }
  }
  return homes;
}

std::vector<RecordPlacement> spread(const std::vector<Tier>& homes, double fraction) {
  std::vector<RecordPlacement> placements = placements_of(homes);
  // Where the rounded share of the records so far grows by one. From the index, so that no error adds up.
  const auto due = [fraction](std::int64_t seen) { return std::floor(static_cast<double>(seen) * fraction + 0.5); };
  std::int64_t seen = 0;
  for (RecordPlacement& placement : placements) {
    if (placement.home == Tier::gpu) continue;
    ++seen;
    placement.on_gpu = due(seen) > due(seen - 1);
  }
  return placements;
}

std::vector<RecordPlacement> by_stride(const std::vector<Tier>& homes, std::int64_t stride) {
  std::vector<RecordPlacement> placements = placements_of(homes);
  std::int64_t seen = 0;
  for (RecordPlacement& placement : placements)
    if (placement.home != Tier::gpu) placement.on_gpu = ++seen % stride == 0;
  return placements;
}

std::size_t shadow_bytes(const UpdatePlan& plan) {
  double bytes = 0.0;
  for (std::size_t r = 0; r < plan.schedule.shape.records.size(); ++r)
    if (needs_shadow(plan.schedule.shape, r)) bytes += state_bytes(plan.schedule.shape, r);
  return static_cast<std::size_t>(bytes);
}

namespace {

UpdatePlan plan_at(const UpdateShape& shape, const UpdateShare& share, const ComputeShape& compute, const Rates& rates) {
  std::vector<Tier> homes;
  for (const RecordPlacement& placement : shape.placements) homes.push_back(placement.home);
  const bool some_away = std::any_of(homes.begin(), homes.end(), [](Tier home) { return home != Tier::gpu; });
  const bool choose = rates.any() && some_away;
  const bool choose_gpu = choose && shape.separate_memory && share.stride == 0 && !share.gpu_fraction;
  const bool choose_speculation = choose && !share.speculation;
  const auto placements = [&](double fraction) {
    if (!shape.separate_memory) return placements_of(homes);
    return share.stride > 0 ? by_stride(homes, share.stride) : spread(homes, fraction);
  };
  const GradientTimes times = gradient_times(compute, rates);
  const auto with = [&](Fractions f) {
    return plan_with(shape, placements(f.gpu), f, share.shadow_bytes, compute, times, rates);
  };
  Fractions fractions;
  if (share.stride > 0) {
    fractions.gpu = shape.separate_memory ? 1.0 / static_cast<double>(share.stride) : 0.0;
  } else if (shape.separate_memory) {
    fractions.gpu = share.gpu_fraction.value_or(0.0);
  }
  fractions.speculation = share.speculation.value_or(0.0);
  UpdatePlan best = with(fractions);
  Fractions best_fractions;
  // From 0 to 1, then between the neighbours of the best.
  const auto sweep = [&](double Fractions::*which) {
    const auto try_between = [&](double from, double to) {
      for (int i = 0; i <= share.tries; ++i) {
        if (is_bound_by_compute(*best.forecast)) return;
        Fractions tried = fractions;
        tried.*which = from + (to - from) * i / share.tries;
        UpdatePlan plan = with(tried);
        if (plan.forecast->step_seconds >= best.forecast->step_seconds * kNoticeable) continue;
        best = std::move(plan);
        best_fractions = tried;
      }
    };
    best_fractions = fractions;
    try_between(0.0, 1.0);
    const double around = best_fractions.*which, step = 1.0 / share.tries;
    try_between(std::max(0.0, around - step), std::min(1.0, around + step));
    fractions = best_fractions;
  };
  if (choose_gpu) sweep(&Fractions::gpu);
  if (!choose_speculation) return with_waiting(std::move(best), compute, times, rates);
  UpdatePlan waits = best;
  sweep(&Fractions::speculation);
  if (choose_gpu && best.speculating > 0) sweep(&Fractions::gpu);
  // By another way: where the GPU updates little, the links are free for what begins early.
  if (choose_gpu && share.tries >= UpdateShare::kAllTries && waits.gpu_fraction > 0.0) {
    UpdatePlan found = std::move(best);
    fractions = {};
    best = with(fractions);
    sweep(&Fractions::speculation);
    sweep(&Fractions::gpu);
    if (best.forecast->step_seconds >= kNoticeable * found.forecast->step_seconds) best = std::move(found);
  }
  if (best.forecast->step_seconds >= kWorthCopies * waits.forecast->step_seconds) return waits;
  return with_waiting(std::move(best), compute, times, rates);
}

}  // namespace

UpdatePlan plan_updates(const UpdateShape& shape, const UpdateShare& share, ComputeShape compute, const Rates& rates) {
  compute.update_between = false;
  UpdatePlan behind = plan_at(shape, share, compute, rates);
  if (share.tries < UpdateShare::kAllTries || !behind.forecast || !compute.moves_in_backward() ||
      is_bound_by_compute(*behind.forecast))
    return behind;
  compute.update_between = true;
  UpdatePlan between = plan_at(shape, share, compute, rates);
  return between.forecast->step_seconds < kNoticeable * behind.forecast->step_seconds ? between : behind;
}

void freeze(UpdatePlan& plan, const std::vector<char>& frozen, ComputeShape compute, const Rates& rates) {
  compute.frozen = frozen;
  compute.update_between = plan.between;
  const GradientTimes times = gradient_times(compute, rates);
  const auto again = [&](UpdateSchedule& schedule, std::optional<StepForecast>& forecast) {
    UpdateShape shape = std::move(schedule.shape);
    shape.frozen = frozen;
    schedule = make_update_schedule(shape, schedule.windows, rates, times);
    if (rates.any()) forecast = forecast_step(schedule, compute, rates);
  };
  again(plan.schedule, plan.forecast);
  if (plan.waiting) again(*plan.waiting, plan.waiting_forecast);
}

}  // namespace strata
