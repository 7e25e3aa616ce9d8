#include "offload/simulator.h"

#include <algorithm>

namespace strata {

double compute_amount_forward() { return 1.0; }
double compute_amount_backward(bool recomputes) { return recomputes ? 3.0 : 2.0; }
double compute_amount_head() { return 3.0; }

namespace {

constexpr int kSteps = 6;  // until what is left over from one step to the next repeats

class StepSimulator {
 public:
  StepSimulator(const UpdateSchedule& schedule, const ComputeShape& compute, const Rates& rates)
      : schedule_(schedule), compute_(compute), rates_(rates) {
    const auto slots = static_cast<std::size_t>(schedule.slots.count());
    written_.assign(slots, 0.0);
    read_.assign(slots, 0.0);
    records_of_.resize(static_cast<std::size_t>(std::max(compute.units, schedule.shape.units)));
    for (std::size_t r = 0; r < schedule.shape.records.size(); ++r)
      records_of_[static_cast<std::size_t>(schedule.shape.records[r].unit)].push_back(static_cast<int>(r));
  }

  StepForecast run() {
    StepForecast result;
    for (int step = 0; step < kSteps; ++step) {
      busy_ = {};
      timeline_.clear();
      const double before = norm_;
      const GradientTimes gradients = run_compute();
      run_update();
      result.step_seconds = norm_ - before;
      if (step == 0) result.gradients = gradients;
    }
    result.busy = busy_;
    result.timeline = timeline_;
    for (TimedInstruction& timed : result.timeline) timed.begin -= norm_, timed.end -= norm_;
    return result;
  }

 private:
  double take(Resource resource, double ready, double amount) {
    double& free = free_[static_cast<std::size_t>(resource)];
    const double begin = std::max(free, ready), seconds = rates_.seconds(resource, amount);
    free = begin + seconds;
    busy_[static_cast<std::size_t>(resource)] += seconds;
    return begin;
  }

  // A unit's parameters are read; returns when the operation ends.
  double compute_unit(int u, double amount) {
    double ready = 0.0;
    const auto& records = records_of_[static_cast<std::size_t>(u)];
    for (const int r : records) ready = std::max(ready, written_[slot(schedule_.slots.params(r))]);
    const double begin = take(Resource::compute, ready, amount), end = begin + rates_.seconds(Resource::compute, amount);
    for (const int r : records) read_[slot(schedule_.slots.params(r))] = end;
    timeline_.push_back({-1 - u, begin, end});
    return end;
  }

  // The sums are written when the last micro-batch's backward is done, and not before the last update has read them.
  double gradients_of(int u, double amount) {
    const std::size_t s = slot(schedule_.slots.grads(u));
    double& free = free_[static_cast<std::size_t>(Resource::compute)];
    free = std::max(free, read_[s]);
    written_[s] = compute_unit(u, amount);
    return written_[s];
  }

  GradientTimes run_compute() {
    const int head = compute_.units - 1;
    GradientTimes times;
    times.grads.assign(static_cast<std::size_t>(compute_.units), 0.0);
    for (int m = 0; m < compute_.micro_batches; ++m) {
      for (int u = 0; u < head; ++u) compute_unit(u, compute_amount_forward());
      times.grads[static_cast<std::size_t>(head)] = gradients_of(head, compute_amount_head());
      for (int u = head - 1; u >= 0; --u)
        times.grads[static_cast<std::size_t>(u)] = gradients_of(u, compute_amount_backward(compute_.recompute && u > 0));
    }
    norm_ = times.norm = free_[static_cast<std::size_t>(Resource::compute)];
    written_[slot(schedule_.slots.norm())] = norm_;
    return times;
  }

  void run_update() {
    const std::size_t early = early_instructions(schedule_);
    for (std::size_t i = 0; i < schedule_.instructions.size(); ++i) {
      const Instruction& instruction = schedule_.instructions[i];
      double ready = i < early ? 0.0 : norm_;
      for (const int s : instruction.reads) ready = std::max(ready, written_[slot(s)]);
      for (const int s : instruction.writes) ready = std::max({ready, written_[slot(s)], read_[slot(s)]});
      const double begin = take(instruction.resource, ready, instruction.amount);
      const double end = begin + rates_.seconds(instruction.resource, instruction.amount);
      for (const int s : instruction.reads) read_[slot(s)] = std::max(read_[slot(s)], end);
      for (const int s : instruction.writes) written_[slot(s)] = end;
      timeline_.push_back({static_cast<int>(i), begin, end});
    }
  }

  static std::size_t slot(int s) { return static_cast<std::size_t>(s); }

  const UpdateSchedule& schedule_;
  const ComputeShape compute_;
  const Rates& rates_;
  std::vector<std::vector<int>> records_of_;
  std::vector<double> written_, read_;  // when each slot's last writer and last reader end
  std::array<double, kResources> free_{}, busy_{};
  std::vector<TimedInstruction> timeline_;
  double norm_ = 0.0;
};

}  // namespace

Resource StepForecast::bound() const {
  return static_cast<Resource>(std::max_element(busy.begin(), busy.end()) - busy.begin());
}

StepForecast forecast_step(const UpdateSchedule& schedule, const ComputeShape& compute, const Rates& rates) {
  return StepSimulator(schedule, compute, rates).run();
}

GradientTimes gradient_times(const ComputeShape& compute, const Rates& rates) {
  UpdateSchedule nothing;
  nothing.shape.units = compute.units;
  nothing.slots = Slots(compute.units, 0, {});
  return forecast_step(nothing, compute, rates).gradients;
}

}  // namespace strata
