#include "offload/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>
#include <queue>

#include "runtime/status.h"

namespace strata {

const char* to_string(Resource resource) {
  switch (resource) {
    case Resource::compute: return "compute";
    case Resource::gpu_to_cpu: return "gpu to cpu";
    case Resource::cpu_to_gpu: return "cpu to gpu";
    case Resource::cpu_update: return "cpu update";
    case Resource::gpu_update: return "gpu update";
    case Resource::nvme_read: return "nvme read";
    case Resource::nvme_write: return "nvme write";
  }
  return "?";
}

const char* to_string(Action action) {
  switch (action) {
    case Action::read_state: return "read state";
    case Action::read_grads: return "read gradients";
    case Action::state_up: return "state up";
    case Action::grads_down: return "gradients down";
    case Action::grads_up: return "gradients up";
    case Action::measure: return "measure";
    case Action::update: return "update";
    case Action::params_up: return "parameters up";
    case Action::params_down: return "parameters down";
    case Action::write_params: return "write parameters";
    case Action::state_down: return "state down";
    case Action::write_state: return "write state";
  }
  return "?";
}

UnitPlacement unit_placement(const UpdateShape& shape, std::size_t record) {
  if (shape.unit_placements.empty()) return {};
  return shape.unit_placements[static_cast<std::size_t>(shape.records[record].unit)];
}

bool has_master(const UpdateShape& shape, std::size_t record) {
  if (shape.compute != DType::f32 || unit_placement(shape, record).params == Tier::nvme) return true;
  if (!shape.separate_memory) return false;
  const RecordPlacement& p = shape.placements[record];
  const Tier params = unit_placement(shape, record).params;
  return p.home == Tier::gpu ? params != Tier::gpu : p.on_gpu || params == Tier::gpu;
}

double state_bytes(const UpdateShape& shape, std::size_t record) {
  const OptimizerRecord& r = shape.records[record];
  const std::int64_t master = has_master(shape, record) ? r.range.count * static_cast<std::int64_t>(sizeof(float)) : 0;
  return static_cast<double>(shape.states * shape.format.bytes(r.states) + master);
}

std::size_t prompt_records(std::size_t records, double delayed) {
  return records - static_cast<std::size_t>(std::llround(delayed * static_cast<double>(records)));
}

bool speculates(const UpdateShape& shape, std::size_t record) {
  return !shape.speculates.empty() && shape.speculates[record] != 0;
}

bool is_frozen(const UpdateShape& shape, std::size_t record) {
  return !shape.frozen.empty() && shape.frozen[static_cast<std::size_t>(shape.records[record].unit)] != 0;
}

bool shares_states(const UpdateShape& shape, std::size_t record) {
  return !shape.shares_states.empty() && shape.shares_states[static_cast<std::size_t>(shape.records[record].unit)] != 0 &&
         shape.placements[record].home != Tier::nvme && !route_of(shape, record).state_travels;
}

bool measures(const UpdateShape& shape, std::size_t record) { return shape.two_passes && shape.records[record].rows > 0; }

bool can_speculate(const UpdateShape& shape, std::size_t record) {
  return !shape.two_passes && shape.records[record].rows == 0 && shape.records[record].turns == 0 &&
         shape.placements[record].home != Tier::gpu && has_master(shape, record) &&
         !(shares_states(shape, record) && shape.placements[record].home == Tier::cpu);
}

bool needs_shadow(const UpdateShape& shape, std::size_t record) {
  return speculates(shape, record) && shape.placements[record].home == Tier::cpu;
}

UpdateRoute route_of(const UpdateShape& shape, std::size_t record) {
  const RecordPlacement& p = shape.placements[record];
  const UnitPlacement unit = unit_placement(shape, record);
  UpdateRoute route;
  route.reads_file = p.home == Tier::nvme;
  route.writes_params = unit.params == Tier::nvme;
  route.reads_grads = unit.grads == Tier::nvme;
  if (!shape.separate_memory) return route;
  route.on_gpu = p.on_gpu || p.home == Tier::gpu;
  route.direct = shape.gpu_direct && route.on_gpu && p.home == Tier::nvme;
  route.state_travels = route.on_gpu && p.home != Tier::gpu && !route.direct;
  route.grads_down = !route.on_gpu && unit.grads == Tier::gpu;
  route.grads_up = route.on_gpu && unit.grads != Tier::gpu;
  route.params_up = !route.on_gpu && unit.params == Tier::gpu;
  route.params_down = route.on_gpu && unit.params != Tier::gpu;
  return route;
}

namespace {

// Rates of a machine as they are common, for the order where nothing is known.
Rates common_rates() {
  Rates rates;
  rates[Resource::gpu_to_cpu] = rates[Resource::cpu_to_gpu] = 25e9;
  rates[Resource::cpu_update] = 1e9;
  rates[Resource::gpu_update] = 40e9;
  rates[Resource::nvme_read] = rates[Resource::nvme_write] = 3e9;
  return rates;
}

enum class Kind { cpu, gpu, staging, gpu_staging, params, grads };
constexpr std::size_t kKinds = 6;
constexpr std::size_t kMostTasks = 14;  // of a record: one for each action, and its gradients once more

std::size_t index(Kind kind) { return static_cast<std::size_t>(kind); }

// What is done with a record while it has windows: it is measured, or updated.
struct Pass {
  int record;
  bool measures;
};

// An instruction before it has windows.
struct Task {
  Action action;
  Resource resource;
  int record;
  int pass;
  double amount;
  double earliest = 0.0;                  // when the backward has given what it needs
  Few after = {};                         // tasks of the same record that wait for it
  int missing = 0;                        // tasks that it still waits for
  bool ready = false;                     // it waits for none any more
  std::array<bool, kKinds> touches = {};  // of each kind of window, whether it uses its record's
  std::array<bool, kKinds> opens = {};    // and is the first to do so
};

// Sorted, without duplicates. As a rule few values, or each new one the largest: faster than a tree.
class SortedInts {
 public:
  void insert(int value) { values_.insert(std::lower_bound(values_.begin(), values_.end(), value), value); }
  void erase(int value) { values_.erase(std::lower_bound(values_.begin(), values_.end(), value)); }
  std::vector<int>::const_iterator begin() const { return values_.begin(); }
  std::vector<int>::const_iterator end() const { return values_.end(); }
  bool empty() const { return values_.empty(); }

 private:
  std::vector<int> values_;
};

bool uses(const UpdateShape& shape, const UpdateRoute& route, Kind kind) {
  const bool rounds = shape.compute != DType::f32;  // else the parameters that travel are the state's own p
  switch (kind) {
    case Kind::cpu: return route.has_cpu_window();
    case Kind::gpu: return route.has_gpu_window();
    case Kind::staging: return route.grads_down || (route.params_up && rounds);
    case Kind::gpu_staging: return route.grads_up || (route.params_down && rounds);
    case Kind::params: return route.writes_params;
    case Kind::grads: return route.reads_grads;
  }
  return false;
}

class ListScheduler {
 public:
  ListScheduler(const UpdateShape& shape, WindowCounts windows, const Rates& rates, const GradientTimes& times)
      : rates_(rates.any() ? rates : common_rates()), times_(times) {
    schedule_.shape = shape;
    schedule_.windows = windows;
    schedule_.slots = Slots(shape.units, static_cast<int>(shape.records.size()), windows);
    const std::array<int, kKinds> counts = {windows.cpu,         windows.gpu,    windows.staging,
                                            windows.gpu_staging, windows.params, windows.grads};
    for (std::size_t k = 0; k < kKinds; ++k)
      for (int w = 0; w < counts[k]; ++w) free_[k].push_back(w);
    const std::size_t records = shape.records.size();
    routes_.reserve(records);
    for (std::size_t r = 0; r < records; ++r) routes_.push_back(route_of(shape, r));
    tasks_.reserve(kMostTasks * records);
    for (std::size_t r = 0; r < records; ++r)
      if (strata::measures(shape, r)) add_measuring(r);
    for (std::size_t r = records; r-- > 0;)
      if (speculates(shape, r) && !is_frozen(shape, r)) add_update(r);
    for (std::size_t r = 0; r < records; ++r)
      if (!speculates(shape, r) && !is_frozen(shape, r)) add_update(r);
  }

  UpdateSchedule run() {
    schedule_.instructions.reserve(tasks_.size());
    for (std::size_t t = 0; t < tasks_.size(); ++t)
      if (tasks_[t].missing == 0) make_ready(static_cast<int>(t));
    double now = 0.0;
    while (true) {
      while (start_what_can(now)) {
      }
      if (events_.empty()) break;
      now = events_.top().time;
      while (!events_.empty() && events_.top().time <= now) {
        const int task = events_.top().task;
        events_.pop();
        if (task >= 0) complete(at(task));
      }
    }
    STRATA_CHECK(schedule_.instructions.size() == tasks_.size(), "a record needs a window of a kind that there is none of");
    return std::move(schedule_);
  }

 private:
  struct At {
    double time;
    int task;  // completed then; -1: something may begin
    bool operator>(const At& other) const { return std::pair(time, task) > std::pair(other.time, other.task); }
  };

  // Adds tasks of one pass: each waits for others of it.
  class Adder {
   public:
    Adder(ListScheduler& to, std::size_t record, bool measures) : to_(to), first_(to.tasks_.size()) {
      to.passes_.push_back({static_cast<int>(record), measures});
      to.windows_.push_back({-1, -1, -1, -1, -1, -1});
      to.openers_.push_back({-1, -1, -1, -1, -1, -1});
      to.users_.push_back({});
      for (std::size_t k = 0; k < kKinds; ++k)
        if (to.uses_window(to.passes_.back(), static_cast<Kind>(k))) to.waiting_[k].push_back(pass());
    }
    int operator()(Action action, Resource resource, double amount, Few before) {
      Task task{.action = action, .resource = resource, .record = to_.passes_.back().record, .pass = pass(), .amount = amount};
      task.earliest = to_.earliest(task);
      const auto t = static_cast<int>(to_.tasks_.size());
      for (const int b : before) {
        if (b < 0) continue;
        to_.at(b).after.push_back(t);
        ++task.missing;
      }
      to_.tasks_.push_back(task);
      return t;
    }
    void finish() {
      const auto p = static_cast<std::size_t>(pass());
      for (std::size_t t = first_; t < to_.tasks_.size(); ++t) {
        for (std::size_t k = 0; k < kKinds; ++k) {
          if (!to_.touches(to_.tasks_[t], static_cast<Kind>(k))) continue;
          to_.tasks_[t].touches[k] = true;
          if (to_.users_[p][k]++ > 0) continue;
          to_.tasks_[t].opens[k] = true;
          to_.openers_[p][k] = static_cast<int>(t);
        }
      }
    }

   private:
    int pass() const { return static_cast<int>(to_.passes_.size()) - 1; }
    ListScheduler& to_;
    const std::size_t first_;
  };

  double gradient_bytes(std::size_t r) const {
    const UpdateShape& shape = schedule_.shape;
    return static_cast<double>(shape.records[r].range.count) * static_cast<double>(size_of(shape.grads));
  }

  // The gradients' way to where they are needed; -1: they are there.
  int add_gradients(Adder& add, std::size_t r) {
    int grads = -1;
    if (routes_[r].reads_grads) grads = add(Action::read_grads, Resource::nvme_read, gradient_bytes(r), {});
    if (routes_[r].grads_down) grads = add(Action::grads_down, Resource::gpu_to_cpu, gradient_bytes(r), {});
    if (routes_[r].grads_up) grads = add(Action::grads_up, Resource::cpu_to_gpu, gradient_bytes(r), {grads});
    return grads;
  }

  void add_measuring(std::size_t r) {
    Adder add(*this, r, true);
    const int grads = add_gradients(add, r);
    add(Action::measure, routes_[r].on_gpu ? Resource::gpu_update : Resource::cpu_update, schedule_.shape.records[r].projecting,
        {grads});
    add.finish();
    ++measuring_;
  }

  void add_update(std::size_t r) {
    const UpdateShape& shape = schedule_.shape;
    const UpdateRoute& route = routes_[r];
    const auto n = static_cast<double>(shape.records[r].range.count);
    const double state = state_bytes(shape, r), params = n * static_cast<double>(size_of(shape.compute));
    Adder add(*this, r, false);
    int last = -1;
    if (route.reads_file) last = add(Action::read_state, Resource::nvme_read, state, {});
    if (route.state_travels) last = add(Action::state_up, Resource::cpu_to_gpu, state, {last});
    const int grads = add_gradients(add, r);
    const double work = strata::measures(shape, r) ? n : n + shape.records[r].projecting;
    last = add(Action::update, route.on_gpu ? Resource::gpu_update : Resource::cpu_update, work, {last, grads});
    if (strata::measures(shape, r)) {
      ++at(last).missing;
      wait_for_measuring_.push_back(last);
    }
    if (route.params_up) add(Action::params_up, Resource::cpu_to_gpu, params, {last});
    int copied = last;
    if (route.params_down) copied = add(Action::params_down, Resource::gpu_to_cpu, params, {last});
    if (route.writes_params) add(Action::write_params, Resource::nvme_write, params, {copied});
    if (route.state_travels) last = add(Action::state_down, Resource::gpu_to_cpu, state, {last});
    if (route.reads_file) add(Action::write_state, Resource::nvme_write, state, {last});
    add.finish();
  }

  Task& at(int t) { return tasks_[static_cast<std::size_t>(t)]; }
  const Task& at(int t) const { return tasks_[static_cast<std::size_t>(t)]; }

  bool uses_window(const Pass& pass, Kind kind) const {
    const UpdateRoute& route = routes_[static_cast<std::size_t>(pass.record)];
    if (!pass.measures) return uses(schedule_.shape, route, kind);
    switch (kind) {
      case Kind::staging: return route.grads_down;
      case Kind::gpu_staging: return route.grads_up;
      case Kind::grads: return route.reads_grads;
      case Kind::cpu:
      case Kind::gpu:
      case Kind::params: break;
    }
    return false;
  }

  // Whether the task uses its pass's window of this kind.
  bool touches(const Task& task, Kind kind) const {
    const UpdateRoute& route = routes_[static_cast<std::size_t>(task.record)];
    if (!uses_window(passes_[static_cast<std::size_t>(task.pass)], kind)) return false;
    switch (task.action) {
      case Action::read_state:
      case Action::write_state: return kind == (route.direct ? Kind::gpu : Kind::cpu);
      case Action::state_up:
      case Action::state_down: return kind == Kind::cpu || kind == Kind::gpu;
      case Action::grads_down: return kind == Kind::staging;
      case Action::grads_up: return kind == Kind::gpu_staging || kind == Kind::grads;
      case Action::read_grads: return kind == Kind::grads;
      case Action::params_up: return kind == (copies_p() ? Kind::cpu : Kind::staging);
      case Action::params_down:
        return kind == (copies_p() ? Kind::gpu : Kind::gpu_staging) || (kind == Kind::params && route.writes_params);
      case Action::write_params: return kind == Kind::params;
      case Action::measure: return kind != Kind::grads || !route.on_gpu;
      case Action::update:
        return kind == Kind::params || kind == Kind::grads ? !route.on_gpu : kind != (route.on_gpu ? Kind::cpu : Kind::gpu);
    }
    return false;
  }

  // Whether the parameters that travel are the state's own p.
  bool copies_p() const { return schedule_.shape.compute == DType::f32; }

  double earliest(const Task& task) const {
    const auto unit = static_cast<std::size_t>(schedule_.shape.records[static_cast<std::size_t>(task.record)].unit);
    double time = 0.0;
    if (reads_grads(task) && unit < times_.grads.size()) time = times_.grads[unit];
    if (waits_for_norm(task)) time = std::max(time, times_.norm);
    return time;
  }

  bool waits_for_norm(const Task& task) const {
    return task.action == Action::measure ||
           (task.action == Action::update && !speculates(schedule_.shape, static_cast<std::size_t>(task.record)));
  }

  bool reads_grads(const Task& task) const {
    const UpdateRoute& route = routes_[static_cast<std::size_t>(task.record)];
    if (route.reads_grads) return task.action == Action::read_grads;
    return task.action == Action::grads_down || task.action == Action::grads_up ||
           ((task.action == Action::update || task.action == Action::measure) && !route.grads_down && !route.grads_up);
  }

  // Windows of a kind are granted in the records' order.
  bool is_its_turn(const Task& task) const {
    for (std::size_t k = 0; k < kKinds; ++k)
      if (task.opens[k] && waiting_[k][granted_[k]] != task.pass) return false;
    return true;
  }

  void make_ready(int t) {
    Task& task = at(t);
    task.ready = true;
    if (is_its_turn(task)) ready_[static_cast<std::size_t>(task.resource)].insert(t);
    if (task.earliest > 0.0) events_.push({task.earliest, -1});
  }

  // The first task in the records' order that the resource could begin, or -1.
  int choose(std::size_t resource, double now) const {
    for (const int t : ready_[resource]) {
      const Task& task = at(t);
      bool can = task.earliest <= now;
      for (std::size_t k = 0; k < kKinds && can; ++k) can = !task.opens[k] || !free_[k].empty();
      if (can) return t;
    }
    return -1;
  }

  // Gives the task the windows that it opens; others may then be next for one.
  void grant(const Task& task) {
    const auto p = static_cast<std::size_t>(task.pass);
    for (std::size_t k = 0; k < kKinds; ++k) {
      if (!task.opens[k]) continue;
      windows_[p][k] = free_[k].front();
      free_[k].pop_front();
      if (++granted_[k] == waiting_[k].size()) continue;
      const int next = openers_[static_cast<std::size_t>(waiting_[k][granted_[k]])][k];
      if (at(next).ready && is_its_turn(at(next))) ready_[static_cast<std::size_t>(at(next).resource)].insert(next);
    }
  }

  // Starts at most one task on every free resource.
  bool start_what_can(double now) {
    bool started = false;
    for (std::size_t resource = 0; resource < kResources; ++resource) {
      if (busy_[resource]) continue;
      const int t = choose(resource, now);
      if (t < 0) continue;
      const Task& task = at(t);
      ready_[resource].erase(t);
      grant(task);
      emit(task);
      busy_[resource] = started = true;
      events_.push({now + rates_.seconds(task.resource, task.amount), t});
    }
    return started;
  }

  void complete(const Task& task) {
    busy_[static_cast<std::size_t>(task.resource)] = false;
    for (const int next : task.after)
      if (--at(next).missing == 0) make_ready(next);
    const auto p = static_cast<std::size_t>(task.pass);
    for (std::size_t k = 0; k < kKinds; ++k)
      if (task.touches[k] && --users_[p][k] == 0) free_[k].push_back(windows_[p][k]);
    if (task.action != Action::measure || --measuring_ > 0) return;
    for (const int next : wait_for_measuring_)
      if (--at(next).missing == 0) make_ready(next);
  }

  void emit(const Task& task) {
    const UpdateShape& shape = schedule_.shape;
    const Slots& slots = schedule_.slots;
    const auto r = static_cast<std::size_t>(task.record), p = static_cast<std::size_t>(task.pass);
    const UpdateRoute& route = routes_[r];
    Instruction i;
    i.action = task.action;
    i.resource = task.resource;
    i.record = task.record;
    i.amount = task.amount;
    i.cpu_window = windows_[p][index(Kind::cpu)];
    i.gpu_window = windows_[p][index(Kind::gpu)];
    i.staging = windows_[p][index(Kind::staging)];
    i.gpu_staging = windows_[p][index(Kind::gpu_staging)];
    i.params_window = windows_[p][index(Kind::params)];
    i.grads_window = windows_[p][index(Kind::grads)];
    const int new_params = route.writes_params ? slots.params_window(i.params_window) : slots.params(task.record);
    const int sums = slots.grads(shape.records[r].unit);
    const int grads = route.reads_grads ? slots.grads_window(i.grads_window) : sums;  // where they are near
    const int params = slots.params(task.record), home = slots.home(task.record);
    // The state where its file is read to, or at home.
    const int in_cpu = route.has_cpu_window() ? slots.cpu_window(i.cpu_window) : home;
    const int worked_on = route.has_gpu_window() ? slots.gpu_window(i.gpu_window) : in_cpu;
    const int in_memory = route.direct ? worked_on : in_cpu;
    switch (task.action) {
      case Action::read_state: i.reads = {home}, i.writes = {in_memory}; break;
      case Action::read_grads: i.reads = {sums}, i.writes = {grads}; break;
      case Action::state_up: i.reads = {in_cpu}, i.writes = {worked_on}; break;
      case Action::grads_down: i.reads = {grads}, i.writes = {slots.staging(i.staging)}; break;
      case Action::grads_up: i.reads = {grads}, i.writes = {slots.gpu_staging(i.gpu_staging)}; break;
      case Action::measure:
        i.reads = {slots.norm()};
        if (!route.grads_down && !route.grads_up) i.reads.push_back(grads);
        if (i.staging >= 0) i.reads.push_back(slots.staging(i.staging));
        if (i.gpu_staging >= 0) i.reads.push_back(slots.gpu_staging(i.gpu_staging));
        i.writes = {slots.rows(task.record)};
        break;
      case Action::update:
        if (waits_for_norm(task)) i.reads = {slots.norm()};
        i.writes = {worked_on};
        if (!route.grads_down && !route.grads_up) i.reads.push_back(grads);
        if (shape.records[r].rows > 0 || shape.records[r].turns > 0)
          (strata::measures(shape, r) ? i.reads : i.writes).push_back(slots.rows(task.record));
        // Of staging it reads the gradients and writes the parameters.
        if (i.staging >= 0) i.writes.push_back(slots.staging(i.staging));
        if (i.gpu_staging >= 0) i.writes.push_back(slots.gpu_staging(i.gpu_staging));
        if (!route.params_up && !route.params_down) i.writes.push_back(new_params);
        break;
      case Action::params_up:
        i.reads = {copies_p() ? in_cpu : slots.staging(i.staging)};
        i.writes = {params};
        break;
      case Action::params_down:
        i.reads = {copies_p() ? worked_on : slots.gpu_staging(i.gpu_staging)};
        i.writes = {new_params};
        break;
      case Action::write_params: i.reads = {new_params}, i.writes = {params}; break;
      case Action::state_down: i.reads = {worked_on}, i.writes = {in_cpu}; break;
      case Action::write_state: i.reads = {in_memory}, i.writes = {home}; break;
    }
    schedule_.instructions.push_back(i);
  }

  const Rates rates_;
  const GradientTimes& times_;
  UpdateSchedule schedule_;
  std::vector<Task> tasks_;
  std::vector<UpdateRoute> routes_;
  std::vector<Pass> passes_;
  std::vector<std::array<int, kKinds>> windows_;  // of each pass
  std::vector<std::array<int, kKinds>> openers_;  // of each pass: the first task that uses its window; -1: has none
  std::vector<std::array<int, kKinds>> users_;    // tasks left that use them
  int measuring_ = 0;                             // tasks of this kind that are left
  std::vector<int> wait_for_measuring_;           // updates, until none is
  std::array<std::vector<int>, kKinds> waiting_;  // passes by kind
  std::array<std::size_t, kKinds> granted_{};     // of waiting_
  // In the order in which they became free: the one that rested longest is given next, so that a record whose predecessor is
  // slower than the rates say need not wait for it.
  std::array<std::deque<int>, kKinds> free_;
  std::array<SortedInts, kResources> ready_;  // tasks that wait for no other one and whose turn for their windows it is
  std::array<bool, kResources> busy_{};
  std::priority_queue<At, std::vector<At>, std::greater<>> events_;
};

}  // namespace

std::size_t early_instructions(const UpdateSchedule& schedule) {
  const auto first =
      std::find_if(schedule.instructions.begin(), schedule.instructions.end(), [&schedule](const Instruction& i) {
        return i.action == Action::measure ||
               (i.action == Action::update && !speculates(schedule.shape, static_cast<std::size_t>(i.record)));
      });
  return static_cast<std::size_t>(first - schedule.instructions.begin());
}

std::size_t measuring_instructions(const UpdateSchedule& schedule) {
  std::size_t end = 0;
  for (std::size_t i = 0; i < schedule.instructions.size(); ++i)
    if (schedule.instructions[i].action == Action::measure) end = i + 1;
  return end;
}

int needs_gradients_of(const UpdateSchedule& schedule, const Instruction& instruction) {
  for (const int s : instruction.reads)
    if (s < schedule.slots.grads(schedule.shape.units)) return s;
  return -1;
}

std::vector<std::size_t> instructions_through_units(const UpdateSchedule& schedule) {
  std::vector<std::size_t> through(static_cast<std::size_t>(schedule.shape.units), 0);
  for (std::size_t i = 0; i < schedule.instructions.size(); ++i) {
    const Instruction& instruction = schedule.instructions[i];
    const int params = schedule.slots.params(instruction.record);
    if (std::find(instruction.writes.begin(), instruction.writes.end(), params) != instruction.writes.end())
      through[static_cast<std::size_t>(schedule.shape.records[static_cast<std::size_t>(instruction.record)].unit)] = i + 1;
  }
  for (std::size_t u = 1; u < through.size(); ++u) through[u] = std::max(through[u], through[u - 1]);
  return through;
}

WindowCounts full_windows(const UpdateShape& shape) {
  constexpr int kEnough = 3;  // one filling, one worked on, one emptying
  WindowCounts counts;
  for (std::size_t r = 0; r < shape.records.size(); ++r) {
    const UpdateRoute route = route_of(shape, r);
    const auto one_more = [&](int& count, Kind kind) { count = std::min(kEnough, count + uses(shape, route, kind)); };
    one_more(counts.cpu, Kind::cpu);
    one_more(counts.gpu, Kind::gpu);
    one_more(counts.staging, Kind::staging);
    one_more(counts.gpu_staging, Kind::gpu_staging);
    one_more(counts.params, Kind::params);
    one_more(counts.grads, Kind::grads);
  }
  return counts;
}

UpdateSchedule make_update_schedule(const UpdateShape& shape, WindowCounts windows, const Rates& rates,
                                    const GradientTimes& times) {
  STRATA_CHECK(shape.placements.size() == shape.records.size(), "every record has a placement");
  return ListScheduler(shape, windows, rates, times).run();
}

}  // namespace strata
