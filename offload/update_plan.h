// Where each record's state lives and who updates it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "offload/simulator.h"

namespace strata {

// Homes by gradual placement: what of the states fits into `gpu` bytes, then what fits into `cpu` bytes, the rest on NVMe.
// First the units whose gradients come last in a backward, so that the others' states have its time to arrive. bytes_on_...: of
// each record's state there, in record order. Pure.
std::vector<Tier> place_gradually(const std::vector<double>& bytes_on_gpu, const std::vector<double>& bytes_on_cpu, double gpu,
                                  double cpu);

// Who updates what lives away from the GPU.
struct UpdateShare {
  // Of those records, the part that the GPU updates, spread evenly (Bresenham); absent: chosen.
  std::optional<double> gpu_fraction = {};
  // 0, or every stride-th of those records on the GPU (Deep Optimizer States), for comparison; goes before gpu_fraction.
  std::int64_t stride = 0;
  // Of the records that can speculate (schedule.h), the part that does: those whose gradients a backward gives first. Absent:
  // chosen; 0 without rates.
  std::optional<double> speculation = 0.0;
  // Bytes of CPU memory for the second copies of those that live there; what is beyond does not speculate.
  double shadow_bytes = std::numeric_limits<double>::infinity();
  // Where a fraction is chosen: from 0 to 1 in this many steps, then as many between the neighbours of the best. Fewer are for
  // comparing placements; then the update's beginning is behind the backward in any case.
  static constexpr int kAllTries = 24;
  int tries = kAllTries;
};

// Placements of records at `homes` with the GPU updating `fraction` of those that live elsewhere.
std::vector<RecordPlacement> spread(const std::vector<Tier>& homes, double fraction);
std::vector<RecordPlacement> by_stride(const std::vector<Tier>& homes, std::int64_t stride);

struct UpdatePlan {
  double gpu_fraction = 0.0;
  int speculating = 0;   // records
  bool between = false;  // see ComputeShape::update_between
  UpdateSchedule schedule;
  std::optional<StepForecast> forecast;  // absent when no rate is known
  // Of a step that does not speculate; absent where none does.
  std::optional<UpdateSchedule> waiting;
  std::optional<StepForecast> waiting_forecast;
};

// Bytes of the second copies in CPU memory that are made while a guess is open.
std::size_t shadow_bytes(const UpdatePlan& plan);

// Makes the schedules of `plan` anew for steps in which other units are frozen: homes, who updates and windows stay.
void freeze(UpdatePlan& plan, const std::vector<char>& frozen, ComputeShape compute, const Rates& rates);

// The schedule of `shape` (whose placements give the homes; on_gpu and speculates are overwritten). Fractions to be chosen are
// those with the shortest forecast step, the smallest of equal ones: first of the GPU's part without speculation, then of
// speculation, then of the GPU's part again; without rates they are 0, and speculation that gains less than a hundredth is too.
// Where CPU and GPU memory are one the GPU's part is 0 too. Where a backward moves something, all of this is tried with the
// update's beginning between its units and behind it.
UpdatePlan plan_updates(const UpdateShape& shape, const UpdateShare& share, ComputeShape compute, const Rates& rates);

}  // namespace strata
