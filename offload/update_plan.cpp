#include "offload/update_plan.h"

#include <algorithm>
#include <cmath>

namespace strata {
namespace {

// Fractions that are tried: from 0 to 1 in this many steps, then as many between the neighbours of the best.
constexpr int kFractions = 24;
// A forecast that is not shorter by this factor is no reason to move another record.
constexpr double kNoticeable = 0.9995;

std::vector<RecordPlacement> placements_of(const std::vector<Tier>& homes) {
  std::vector<RecordPlacement> placements;
  for (const Tier home : homes) placements.push_back({home, home == Tier::gpu});
  return placements;
}

UpdatePlan plan_with(UpdateShape shape, std::vector<RecordPlacement> placements, const ComputeShape& compute,
                     const Rates& rates) {
  shape.placements = std::move(placements);
  UpdatePlan plan;
  plan.schedule = make_update_schedule(shape, full_windows(shape), rates, gradient_times(compute, rates));
  if (rates.any()) plan.forecast = forecast_step(plan.schedule, compute, rates);
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

UpdatePlan plan_updates(UpdateShape shape, const UpdateShare& share, const ComputeShape& compute, const Rates& rates) {
  std::vector<Tier> homes;
  for (const RecordPlacement& placement : shape.placements) homes.push_back(placement.home);
  const bool some_away = std::any_of(homes.begin(), homes.end(), [](Tier home) { return home != Tier::gpu; });
  if (!shape.separate_memory) return plan_with(std::move(shape), placements_of(homes), compute, rates);
  if (share.stride > 0) {
    UpdatePlan plan = plan_with(std::move(shape), by_stride(homes, share.stride), compute, rates);
    plan.gpu_fraction = 1.0 / static_cast<double>(share.stride);
    return plan;
  }
  const auto with_fraction = [&](double fraction) {
    UpdatePlan plan = plan_with(shape, spread(homes, fraction), compute, rates);
    plan.gpu_fraction = fraction;
    return plan;
  };
  if (share.gpu_fraction || !rates.any() || !some_away) return with_fraction(share.gpu_fraction.value_or(0.0));
  UpdatePlan best = with_fraction(0.0);
  const auto sweep = [&](double from, double to) {
    for (int i = 0; i <= kFractions; ++i) {
      UpdatePlan plan = with_fraction(from + (to - from) * i / kFractions);
      if (plan.forecast->step_seconds < best.forecast->step_seconds * kNoticeable) best = std::move(plan);
    }
  };
  sweep(0.0, 1.0);
  const double around = best.gpu_fraction, step = 1.0 / kFractions;
  sweep(std::max(0.0, around - step), std::min(1.0, around + step));
  return best;
}

}  // namespace strata
