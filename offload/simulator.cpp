#include "offload/simulator.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>

namespace strata {

double compute_amount_forward() { return 1.0; }
double compute_amount_backward(bool recomputes, bool frozen) { return (recomputes ? 3.0 : 2.0) - (frozen ? 1.0 : 0.0); }
double compute_amount_head(bool frozen) { return frozen ? 2.0 : 3.0; }

namespace {
bool any(const std::vector<double>& bytes) {
  return std::any_of(bytes.begin(), bytes.end(), [](double b) { return b > 0.0; });
}
}  // namespace

bool ComputeShape::moves_in_forward() const { return any(params_up) || any(activations_away); }
bool ComputeShape::moves_in_backward() const { return moves_in_forward() || any(grads_down); }

namespace {

constexpr int kSteps = 6;           // at most, until what is left over from one step to the next repeats
constexpr double kRepeats = 1e-10;  // of a step: where all operations are as near to those of the step before

class StepSimulator {
 public:
  StepSimulator(const UpdateSchedule& schedule, const ComputeShape& compute, const Rates& rates)
      : schedule_(schedule), compute_(compute), rates_(rates) {
    const auto slots = static_cast<std::size_t>(schedule.slots.count());
    written_.assign(slots, 0.0);
    read_.assign(slots, 0.0);
    fetched_.resize(static_cast<std::size_t>(compute.units));
    params_in_memory_.resize(static_cast<std::size_t>(compute.units));
    for (int u = 0; u < compute.units; ++u) {
      order_.push_back(u);
      uses_.push_back({u});
      if (compute.shared.empty()) continue;
      const std::vector<int>& shared = compute.shared[static_cast<std::size_t>(u)];
      uses_.back().insert(uses_.back().end(), shared.begin(), shared.end());
    }
    for (int u = compute.units - 2; u >= 0; --u) order_.push_back(u);
    through_ = instructions_through_units(schedule);
    early_ = early_instructions(schedule);
    measuring_ = measuring_instructions(schedule);
    completed_.assign(static_cast<std::size_t>(compute.units), 0);
    next_ = schedule.instructions.size();
    interleaves_ = compute.moves_in_forward() && compute.delayed_share == 1.0;
    records_of_.resize(static_cast<std::size_t>(std::max(compute.units, schedule.shape.units)));
    for (std::size_t r = 0; r < schedule.shape.records.size(); ++r)
      records_of_[static_cast<std::size_t>(schedule.shape.records[r].unit)].push_back(static_cast<int>(r));
  }

  StepForecast run() {
    StepForecast result;
    for (int step = 0; step < kSteps && !repeats(); ++step) {
      busy_ = {};
      std::swap(timeline_, timeline_before_);
      timeline_.clear();
      norm_before_ = norm_;
      const GradientTimes gradients = run_compute();
      run_update();
      wait_for_prompt_records();
      result.step_seconds = norm_ - norm_before_;
      if (step == 0) result.gradients = gradients;
    }
    result.busy = busy_;
    result.timeline = std::move(timeline_);
    for (TimedOperation& timed : result.timeline) timed.begin -= norm_, timed.end -= norm_;
    return result;
  }

 private:
  struct Away {
    int unit = 0;
    double stored = 0.0;  // when it is at home, or in CPU memory again
    bool read = false;
    std::optional<double> fetched = {};
  };

  // Whether the last step was the one before once more, so that every later one is.
  bool repeats() const {
    const double step = norm_ - norm_before_, hair = kRepeats * step;
    const auto same = [step, hair](const TimedOperation& a, const TimedOperation& b) {
      return a.resource == b.resource && a.instruction == b.instruction && std::abs(a.begin - step - b.begin) <= hair &&
             std::abs(a.end - step - b.end) <= hair;
    };
    return !timeline_before_.empty() &&
           std::equal(timeline_.begin(), timeline_.end(), timeline_before_.begin(), timeline_before_.end(), same);
  }

  // Takes the resource as soon as it is free and all is ready; returns when the operation ends.
  double take(Resource resource, double ready, double amount, int instruction = -1) {
    double& free = free_[static_cast<std::size_t>(resource)];
    const double begin = std::max(free, ready), seconds = rates_.seconds(resource, amount);
    free = begin + seconds;
    busy_[static_cast<std::size_t>(resource)] += seconds;
    timeline_.push_back({resource, instruction, begin, free});
    return free;
  }

  // How often a step goes over the units, and with how many micro-batches.
  int passes() const { return compute_.vertical ? 1 : compute_.micro_batches; }
  int at_once() const { return compute_.vertical ? compute_.micro_batches : 1; }
  double& compute_free() { return free_[static_cast<std::size_t>(Resource::compute)]; }
  double params_up(int u) const { return of(compute_.params_up, u); }
  double params_read(int u) const { return of(compute_.params_read, u); }
  double grads_down(int u) const { return of(compute_.grads_down, u); }
  double grads_written(int u) const { return of(compute_.grads_written, u); }
  double grads_between(int u) const { return of(compute_.grads_between, u); }
  bool recomputes(int u) const { return of(compute_.recomputes, u) != 0; }
  bool is_frozen(int u) const { return of(compute_.frozen, u) != 0; }
  double activations_away(int u) const { return of(compute_.activations_away, u); }
  bool activations_on_nvme(int u) const { return of(compute_.activations_on_nvme, u) != 0; }
  template <class T>
  static T of(const std::vector<T>& values, int u) {
    return values.empty() ? T() : values[static_cast<std::size_t>(u)];
  }
  const std::vector<int>& uses(int u) const { return uses_[static_cast<std::size_t>(u)]; }

  // As ParamStore: a copy's memory is free when what was enqueued before it has computed.
  void fetch(int u) {
    advance(u);
    std::optional<double>& fetched = fetched_[static_cast<std::size_t>(u)];
    if (params_up(u) == 0.0 || fetched) return;
    read_ahead(u);
    std::optional<double>& in_memory = params_in_memory_[static_cast<std::size_t>(u)];
    fetched = take(Resource::cpu_to_gpu, std::max(compute_free(), in_memory ? *in_memory : params_are_new(u)), params_up(u));
    in_memory.reset();
  }
  void read_ahead(int u) {
    if (params_read(u) == 0.0) return;
    advance(u);
    std::optional<double>& in_memory = params_in_memory_[static_cast<std::size_t>(u)];
    if (in_memory || fetched_[static_cast<std::size_t>(u)]) return;
    in_memory = take(Resource::nvme_read, params_are_new(u), params_read(u));
  }
  double params_are_new(int u) const {
    double ready = 0.0;
    for (const int r : records_of_[static_cast<std::size_t>(u)])
      ready = std::max(ready, written_[slot(schedule_.slots.params(r))]);
    return ready;
  }

  // The unit at `position` of a pass's order: fetches its parameters and those of the next ones; returns when its are there.
  double acquire(std::size_t position) {
    const std::vector<int>& used = uses(order_[position]);
    double ready = 0.0;
    for (const int u : used) {
      advance(u);
      if (params_up(u) > 0.0) {
        fetch(u);
        ready = std::max(ready, *fetched_[static_cast<std::size_t>(u)]);
      } else {
        ready = std::max(ready, params_are_new(u));
      }
    }
    if (order_[position] + 1 == compute_.units) finish_update();
    const auto ahead = static_cast<std::size_t>(compute_.prefetch_units);
    for (std::size_t i = position + 1; i <= position + ahead && i < order_.size(); ++i)
      for (const int u : uses(order_[i]))
        if (std::find(used.begin(), used.end(), u) == used.end()) fetch(u);
    if (const std::size_t next = position + ahead + 1; next < order_.size()) read_ahead(order_[next]);
    return ready;
  }

  // What was enqueued for it has computed by now.
  void release(std::size_t position) {
    for (const int u : uses(order_[position])) {
      fetched_[static_cast<std::size_t>(u)].reset();
      for (const int r : records_of_[static_cast<std::size_t>(u)]) read_[slot(schedule_.slots.params(r))] = compute_free();
    }
  }

  void forward(std::size_t position) {
    const double ready = acquire(position);
    if (const int u = order_[position]; activations_away(u) > 0.0) {
      for (int m = 0; m < at_once(); ++m) forward_that_leaves(u, ready);
    } else {
      take(Resource::compute, ready, at_once() * compute_amount_forward());
    }
    release(position);
  }

  // As ActivationStore, here and below: one unit's leave while another computes, over two windows where they go to NVMe.
  void forward_that_leaves(int u, double ready) {
    if (leaving_forward_.size() >= 2) {
      ready = std::max(ready, leaving_forward_.front());
      leaving_forward_.pop_front();
    }
    const double computed = take(Resource::compute, ready, compute_amount_forward());
    double has_window = 0.0;
    if (activations_on_nvme(u) && in_write_windows_.size() >= 2) {
      has_window = in_write_windows_.front();
      in_write_windows_.pop_front();
    }
    double stored = take(Resource::gpu_to_cpu, std::max(computed, has_window), activations_away(u));
    leaving_forward_.push_back(stored);
    if (activations_on_nvme(u)) {
      stored = take(Resource::nvme_write, stored, activations_away(u));
      in_write_windows_.push_back(stored);
    }
    away_.push_back({u, stored});
  }

  // The head waits for what leaves; from then on what left last comes back first.
  double begin_backward() {
    const double left = leaving_forward_.empty() ? 0.0 : leaving_forward_.back();
    leaving_forward_.clear();
    in_write_windows_.clear();
    // In the order of the forward; a unit's micro-batches come back first to last.
    for (std::size_t end = away_.size(); end > 0;) {
      std::size_t first = end;
      while (first > 0 && away_[first - 1].unit == away_[end - 1].unit) --first;
      coming_back_.insert(coming_back_.end(), away_.begin() + static_cast<std::ptrdiff_t>(first),
                          away_.begin() + static_cast<std::ptrdiff_t>(end));
      end = first;
    }
    away_.clear();
    return left;
  }

  void read_back(Away& away) {
    if (!activations_on_nvme(away.unit) || away.read) return;
    away.read = true;
    away.stored = take(Resource::nvme_read, std::max(away.stored, freed_by_fetch_), activations_away(away.unit));
  }
  void fetch_back(Away& away) {
    if (away.fetched) return;
    read_back(away);
    away.fetched = take(Resource::cpu_to_gpu, std::max(away.stored, compute_free()), activations_away(away.unit));
  }
  void prefetch_activations() {
    const auto ahead = static_cast<std::size_t>(std::max(1, compute_.prefetch_units));
    for (std::size_t i = 0; i < std::min(ahead, coming_back_.size()); ++i) fetch_back(coming_back_[i]);
    if (coming_back_.size() > ahead) read_back(coming_back_[ahead]);
  }
  // When what unit u kept is there for its next micro-batch.
  double take_back(int u) {
    if (activations_away(u) == 0.0) return 0.0;
    fetch_back(coming_back_.front());
    freed_by_fetch_ = *coming_back_.front().fetched;
    coming_back_.pop_front();
    return freed_by_fetch_;
  }

  // As GradStore: sums are written when a micro-batch's backward is done, and not before the last update has read them. Those
  // that leave do so behind it; two gradients, with sums that leave, are in flight. Returns when the sums are where they live.
  double backward(std::size_t position, double amount, int pass) {
    const int u = order_[position];
    const std::size_t s = slot(schedule_.slots.grads(u));
    const bool leaves = grads_down(u) > 0.0 && !is_frozen(u), last_pass = pass + 1 == passes();
    const bool is_head = u + 1 == compute_.units;
    double ready = std::max(acquire(position), leaves || is_frozen(u) ? 0.0 : read_[s]);
    if (is_head) ready = std::max(ready, begin_backward());
    if (is_head && last_pass && compute_.update_between) begin_step();
    for (int m = 0; m < at_once(); ++m) {
      if (!is_head) ready = std::max(ready, take_back(u));
      prefetch_activations();
      double has_memory = 0.0;
      if (leaves && leaving_.size() >= 2) {
        has_memory = leaving_.front();
        leaving_.pop_front();
      }
      double reduced = take(Resource::compute, std::max(ready, has_memory), amount);
      if (is_frozen(u)) continue;
      if (leaves && pass > 0) reduced = take(Resource::cpu_to_gpu, std::max(reduced, written_[s]), grads_between(u));
      reduced_ = std::max(reduced_, reduced);
      double done = reduced_;
      if (leaves && m + 1 == at_once()) {
        const bool to_file = grads_written(u) > 0.0;
        double has_place = to_file ? 0.0 : read_[s];
        if (to_file && grad_windows_.size() >= 2) {
          has_place = grad_windows_.front();
          grad_windows_.pop_front();
        }
        done = take(Resource::gpu_to_cpu, std::max(reduced_, has_place), last_pass ? grads_down(u) : grads_between(u));
      }
      if (leaves) leaving_.push_back(done);
      written_[s] = done;
      if (grads_written(u) > 0.0 && m + 1 == at_once()) {
        written_[s] = take(Resource::nvme_write, std::max(done, read_[s]), grads_written(u));
        grad_windows_.push_back(written_[s]);
      }
    }
    release(position);
    return written_[s];
  }

  GradientTimes run_compute() {
    const auto head = static_cast<std::size_t>(compute_.units) - 1;
    GradientTimes times;
    times.grads.assign(head + 1, 0.0);
    for (int pass = 0; pass < passes(); ++pass) {
      for (std::size_t i = 0; i < order_.size(); ++i) {
        if (i < head) {
          forward(i);
          continue;
        }
        const int u = order_[i];
        const double amount =
            i == head ? compute_amount_head(is_frozen(u)) : compute_amount_backward(recomputes(u), is_frozen(u));
        const bool last = pass + 1 == passes();
        times.grads[static_cast<std::size_t>(u)] = backward(i, amount, pass);
        if (!last || !compute_.update_between) continue;
        completed_[static_cast<std::size_t>(u)] = 1;
        advance_early();
      }
    }
    norm_ = times.norm = std::max(compute_free(), reduced_);
    // The next step computes when their memory is free.
    for (const double done : leaving_) compute_free() = std::max(compute_free(), done);
    leaving_.clear();
    written_[slot(schedule_.slots.norm())] = norm_;
    return times;
  }

  // As OptimizerStore: as far as what the next forward moves need not stand behind it.
  void run_update() {
    if (!begun_) begin_step();
    std::fill(completed_.begin(), completed_.end(), 1);
    advance_early();
    begun_ = false;
    after_ = norm_;
    run_measuring();
    if (!interleaves_) return finish_update();
    advance(std::min(compute_.prefetch_units, compute_.units - 1));
  }
  // The rest is enqueued when all rows are measured, and what is known of them is exchanged.
  void run_measuring() {
    double measured = after_;
    for (; next_ < measuring_; ++next_) {
      const double end = execute(next_, after_);
      if (schedule_.instructions[next_].action == Action::measure) measured = std::max(measured, end);
    }
    after_ = measured;
  }
  void begin_step() {
    begun_ = true;
    next_ = 0;
    completed_.assign(completed_.size(), 0);
    advance_early();
  }
  void advance_early() {
    for (; next_ < early_; ++next_) {
      const int unit = needs_gradients_of(schedule_, schedule_.instructions[next_]);
      if (unit >= 0 && completed_[static_cast<std::size_t>(unit)] == 0) return;
      execute(next_, 0.0);
    }
  }
  void advance(int u) {
    if (begun_) return;
    for (; next_ < through_[static_cast<std::size_t>(u)]; ++next_) execute(next_, after_);
  }
  void finish_update() {
    if (begun_) return;
    for (; next_ < schedule_.instructions.size(); ++next_) execute(next_, after_);
  }
  double execute(std::size_t i, double after) {
    const Instruction& instruction = schedule_.instructions[i];
    double ready = after;
    for (const int s : instruction.reads) ready = std::max(ready, written_[slot(s)]);
    for (const int s : instruction.writes) ready = std::max({ready, written_[slot(s)], read_[slot(s)]});
    const double end = take(instruction.resource, ready, instruction.amount, static_cast<int>(i));
    for (const int s : instruction.reads) read_[slot(s)] = std::max(read_[slot(s)], end);
    for (const int s : instruction.writes) written_[slot(s)] = end;
    return end;
  }
  void wait_for_prompt_records() {
    const std::size_t prompt = prompt_records(schedule_.shape.records.size(), compute_.delayed_share);
    for (std::size_t r = 0; r < prompt; ++r)
      compute_free() = std::max(compute_free(), written_[slot(schedule_.slots.params(static_cast<int>(r)))]);
  }

  static std::size_t slot(int s) { return static_cast<std::size_t>(s); }

  const UpdateSchedule& schedule_;
  const ComputeShape compute_;
  const Rates& rates_;
  std::vector<std::vector<int>> records_of_, uses_;  // of each unit: its records; the units whose parameters it uses
  std::vector<double> written_, read_;               // when each slot's last writer and last reader end
  std::array<double, kResources> free_{}, busy_{};
  std::vector<TimedOperation> timeline_, timeline_before_;  // of this step and the last one
  double norm_before_ = 0.0;                                // when the last one's norm was known
  std::vector<int> order_;                                  // units in the order of a micro-batch's forward and backward
  std::vector<std::optional<double>> params_in_memory_;     // when those are in CPU memory that were read and not copied up yet
  std::vector<std::optional<double>> fetched_;  // when the parameters are there that were copied up and not used yet
  std::deque<double> leaving_;                  // when the memory of gradients in flight is free
  std::deque<double> grad_windows_;             // when the windows of sums on their way to NVMe are free
  // Of what units keep, away from the gpu tier.
  std::vector<Away> away_;                                 // in the order of the forward
  std::deque<Away> coming_back_;                           // in the order of the backward
  std::deque<double> leaving_forward_, in_write_windows_;  // when their memory, or window, is free
  double freed_by_fetch_ = 0.0;                            // when the last window's copy up ended
  double reduced_ = 0.0;                                   // when the last sums were complete
  double norm_ = 0.0;
  std::vector<std::size_t> through_;  // instructions_through_units()
  std::size_t next_ = 0;              // instruction of the update that has begun
  std::size_t early_ = 0;             // early_instructions()
  std::size_t measuring_ = 0;         // measuring_instructions()
  bool begun_ = false;                // the step's own early instructions are being enqueued
  std::vector<char> completed_;       // units whose gradients the step at hand has
  double after_ = 0.0;                // when its norm was known
  bool interleaves_ = false;
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
