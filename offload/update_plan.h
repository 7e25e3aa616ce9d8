// Where each record's state lives and who updates it.
#pragma once

#include <cstdint>
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
  std::optional<double> gpu_fraction;
  // 0, or every stride-th of those records on the GPU (Deep Optimizer States), for comparison; goes before gpu_fraction.
  std::int64_t stride = 0;
};

// Placements of records at `homes` with the GPU updating `fraction` of those that live elsewhere.
std::vector<RecordPlacement> spread(const std::vector<Tier>& homes, double fraction);
std::vector<RecordPlacement> by_stride(const std::vector<Tier>& homes, std::int64_t stride);

struct UpdatePlan {
  double gpu_fraction = 0.0;
  UpdateSchedule schedule;
  std::optional<StepForecast> forecast;  // absent when no rate is known
};

// The schedule of `shape` (whose placements give the homes; on_gpu is overwritten). A fraction to be chosen is the one with the
// shortest forecast step, the smallest of equal ones; without rates it is 0. Where CPU and GPU memory are one it is 0 too.
UpdatePlan plan_updates(UpdateShape shape, const UpdateShare& share, const ComputeShape& compute, const Rates& rates);

}  // namespace strata
