// What a step will take: its instructions against one queue for each resource, by the rates.
#pragma once

#include <array>
#include <vector>

#include "offload/schedule.h"

namespace strata {

// What happens between two updates.
struct ComputeShape {
  int units = 0;  // the last one is the head, whose forward and backward are one operation
  int micro_batches = 1;
  bool vertical = false;  // a unit computes all micro-batches before the next unit does
  int prefetch_units = 1;
  double delayed_share = 1.0;  // of the records, the last ones, that may be updated while the next forward computes
  std::vector<std::vector<int>> shared = {};  // of each unit, others whose parameters it uses too; empty: none
  std::vector<double> params_up = {};         // bytes of each unit that are copied up for every use; 0, or empty: none
  std::vector<double> params_read = {};       // bytes of each unit that are read from NVMe before; likewise
  std::vector<double> grads_down = {};        // bytes of each unit's sums that leave when the last backward is done; likewise
  std::vector<double> grads_written = {};     // of those, bytes that go on to NVMe
  std::vector<double> grads_between = {};     // that leave after the others, and come back for the next
  std::vector<char> recomputes = {};          // whether a unit's backward runs its forward again; empty: none
  std::vector<char> frozen = {};              // whether a unit is not trained (UpdateShape); empty: none
  // Bytes of each unit and micro-batch that leave after the forward and come back for the backward; 0, or empty: none. And
  // whether they go on to NVMe.
  std::vector<double> activations_away = {};
  std::vector<char> activations_on_nvme = {};
  // Whether what of an update begins before the norm is enqueued between the units of the last backward; else behind it.
  bool update_between = false;
  // Whether a backward copies or reads anything.
  bool moves_in_backward() const;
  // Whether a forward copies or reads anything; then what it moves stands between the parts of an update on its streams.
  bool moves_in_forward() const;
};

// Forwards of one unit that one operation is worth: a backward is two, and the forward again where it is recomputed.
// A third of a forward and backward is what the gradients of parameters take, which a frozen unit does not compute.
double compute_amount_forward();
double compute_amount_backward(bool recomputes, bool frozen);
double compute_amount_head(bool frozen);

// An instruction of the schedule, or something between two updates: a unit computes, its parameters come up, its sums or what
// it keeps for its backward leave or come back.
struct TimedOperation {
  Resource resource = Resource::compute;
  int instruction = -1;  // in the schedule; -1: between two updates
  double begin = 0.0, end = 0.0;
};

struct StepForecast {
  double step_seconds = 0.0;              // from the end of one step's gradients to the next one's, when it repeats
  std::array<double, kResources> busy{};  // of one step
  std::vector<TimedOperation> timeline;   // of one step; time 0: its gradients are complete
  GradientTimes gradients;                // of a step from its beginning
  // The resource that works longest, and its seconds: no order can make the step shorter.
  Resource bound() const;
  double bound_seconds() const { return busy[static_cast<std::size_t>(bound())]; }
};

// Pure. Nothing waits in a step but for what its slots and resources say. The schedule's guess, if it has one, is right.
StepForecast forecast_step(const UpdateSchedule& schedule, const ComputeShape& compute, const Rates& rates);
// When a step's backward has each unit's gradients, as forecast_step() has it.
GradientTimes gradient_times(const ComputeShape& compute, const Rates& rates);

}  // namespace strata
