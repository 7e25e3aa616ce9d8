#include "offload/schedule.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <queue>
#include <set>

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
    case Action::state_up: return "state up";
    case Action::grads_down: return "gradients down";
    case Action::update: return "update";
    case Action::params_up: return "parameters up";
    case Action::state_down: return "state down";
    case Action::write_state: return "write state";
  }
  return "?";
}

bool has_master(const UpdateShape& shape, std::size_t record) {
  return shape.compute != DType::f32 || (shape.separate_memory && shape.placements[record].home != Tier::gpu);
}

double state_bytes(const UpdateShape& shape, std::size_t record) {
  return static_cast<double>(shape.records[record].range.count) * (has_master(shape, record) ? 12.0 : 8.0);
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

enum class Kind { cpu, gpu, staging };
constexpr std::size_t kKinds = 3;

std::size_t index(Kind kind) { return static_cast<std::size_t>(kind); }

// An instruction before it has windows.
struct Task {
  Action action;
  Resource resource;
  int record;
  double amount;
  std::vector<int> before;  // tasks of the same record
};

// How the record passes through the pipeline.
struct Route {
  bool cpu_window, gpu_window, staging, gpu_update;  // cpu_window: by way of the state file
};

Route route_of(const UpdateShape& shape, std::size_t r) {
  const RecordPlacement& p = shape.placements[r];
  Route route{};
  route.cpu_window = p.home == Tier::nvme;
  route.gpu_update = shape.separate_memory && (p.on_gpu || p.home == Tier::gpu);
  route.gpu_window = route.gpu_update && p.home != Tier::gpu;
  route.staging = shape.separate_memory && !route.gpu_update;
  return route;
}

bool uses(const Route& route, Kind kind) {
  return kind == Kind::cpu ? route.cpu_window : kind == Kind::gpu ? route.gpu_window : route.staging;
}

class ListScheduler {
 public:
  ListScheduler(const UpdateShape& shape, WindowCounts windows, const Rates& rates, const GradientTimes& times)
      : rates_(rates.any() ? rates : common_rates()), times_(times) {
    schedule_.shape = shape;
    schedule_.windows = windows;
    schedule_.slots = Slots(shape.units, static_cast<int>(shape.records.size()), windows);
    const std::array<int, kKinds> counts = {windows.cpu, windows.gpu, windows.staging};
    for (std::size_t k = 0; k < kKinds; ++k)
      for (int w = 0; w < counts[k]; ++w) free_[k].insert(w);
    for (std::size_t r = 0; r < shape.records.size(); ++r) add_record(r);
  }

  UpdateSchedule run() {
    for (std::size_t t = 0; t < tasks_.size(); ++t)
      if (tasks_[t].before.empty()) make_ready(static_cast<int>(t));
    double now = 0.0;
    while (true) {
      while (start_what_can(now)) {
      }
      if (events_.empty()) break;
      now = events_.top().time;
      while (!events_.empty() && events_.top().time <= now) {
        const int task = events_.top().task;
        events_.pop();
        if (task >= 0) complete(static_cast<std::size_t>(task));
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

  void add_record(std::size_t r) {
    const UpdateShape& shape = schedule_.shape;
    const Route route = route_of(shape, r);
    routes_.push_back(route);
    windows_.push_back({-1, -1, -1});
    users_.push_back({0, 0, 0});
    for (std::size_t k = 0; k < kKinds; ++k)
      if (uses(route, static_cast<Kind>(k))) waiting_[k].push_back(static_cast<int>(r));
    const auto n = static_cast<double>(shape.records[r].range.count);
    const double state = state_bytes(shape, r);
    int last = -1;
    const auto add = [&](Action action, Resource resource, double amount, std::vector<int> before) {
      std::erase(before, -1);
      tasks_.push_back({action, resource, static_cast<int>(r), amount, std::move(before)});
      return static_cast<int>(tasks_.size()) - 1;
    };
    if (route.cpu_window) last = add(Action::read_state, Resource::nvme_read, state, {});
    if (route.gpu_window) last = add(Action::state_up, Resource::cpu_to_gpu, state, {last});
    int grads = -1;
    if (route.staging) grads = add(Action::grads_down, Resource::gpu_to_cpu, 4.0 * n, {});
    last = add(Action::update, route.gpu_update ? Resource::gpu_update : Resource::cpu_update, n, {last, grads});
    if (route.staging) add(Action::params_up, Resource::cpu_to_gpu, n * static_cast<double>(size_of(shape.compute)), {last});
    if (route.gpu_window) last = add(Action::state_down, Resource::gpu_to_cpu, state, {last});
    if (route.cpu_window) add(Action::write_state, Resource::nvme_write, state, {last});
    for (std::size_t t = first_task_; t < tasks_.size(); ++t) {
      missing_.push_back(static_cast<int>(tasks_[t].before.size()));
      after_.emplace_back();
      for (const int b : tasks_[t].before) after_[static_cast<std::size_t>(b)].push_back(static_cast<int>(t));
      for (std::size_t k = 0; k < kKinds; ++k)
        if (touches(tasks_[t], static_cast<Kind>(k))) ++users_[r][k];
    }
    first_task_ = tasks_.size();
  }

  // The kind of window that only this action is the first to use, if its record has one.
  static std::optional<Kind> opens(Action action) {
    switch (action) {
      case Action::read_state: return Kind::cpu;
      case Action::state_up: return Kind::gpu;
      case Action::grads_down: return Kind::staging;
      default: return std::nullopt;
    }
  }

  // Whether the task uses its record's window of this kind.
  bool touches(const Task& task, Kind kind) const {
    const Route& route = routes_[static_cast<std::size_t>(task.record)];
    if (!uses(route, kind)) return false;
    switch (task.action) {
      case Action::read_state:
      case Action::write_state: return kind == Kind::cpu;
      case Action::state_up:
      case Action::state_down: return kind != Kind::staging;
      case Action::grads_down: return kind == Kind::staging;
      case Action::params_up: return kind == Kind::staging || (kind == Kind::cpu && copies_p());
      case Action::update: return kind != Kind::cpu || !route.gpu_update;
    }
    return false;
  }

  // Whether what goes up is the state's own p.
  bool copies_p() const { return schedule_.shape.compute == DType::f32; }

  double earliest(const Task& task) const {
    const auto unit = static_cast<std::size_t>(schedule_.shape.records[static_cast<std::size_t>(task.record)].unit);
    double time = 0.0;
    if (reads_grads(task) && unit < times_.grads.size()) time = times_.grads[unit];
    if (task.action == Action::update) time = std::max(time, times_.norm);
    return time;
  }

  bool reads_grads(const Task& task) const {
    return task.action == Action::grads_down ||
           (task.action == Action::update && !routes_[static_cast<std::size_t>(task.record)].staging);
  }

  void make_ready(int t) {
    const Task& task = tasks_[static_cast<std::size_t>(t)];
    if (const std::optional<Kind> kind = opens(task.action)) {
      opening_[index(*kind)].insert(t);
    } else {
      ready_[static_cast<std::size_t>(task.resource)].insert(t);
    }
    if (const double time = earliest(task); time > 0.0) events_.push({time, -1});
  }

  // The first task in record order that the resource could begin, or -1.
  int choose(std::size_t resource, double now) const {
    int best = -1;
    for (const int t : ready_[resource])
      if (earliest(tasks_[static_cast<std::size_t>(t)]) <= now) {
        best = t;
        break;
      }
    for (std::size_t k = 0; k < kKinds; ++k) {
      if (opening_[k].empty() || free_[k].empty()) continue;
      const int t = *opening_[k].begin();
      const Task& task = tasks_[static_cast<std::size_t>(t)];
      if (static_cast<std::size_t>(task.resource) != resource || waiting_[k][granted_[k]] != task.record) continue;
      if (earliest(task) <= now && (best < 0 || t < best)) best = t;
    }
    return best;
  }

  // Starts at most one task on every free resource.
  bool start_what_can(double now) {
    bool started = false;
    for (std::size_t resource = 0; resource < kResources; ++resource) {
      if (busy_[resource]) continue;
      const int t = choose(resource, now);
      if (t < 0) continue;
      const Task& task = tasks_[static_cast<std::size_t>(t)];
      if (const std::optional<Kind> kind = opens(task.action)) {
        const std::size_t k = index(*kind);
        windows_[static_cast<std::size_t>(task.record)][k] = *free_[k].begin();
        free_[k].erase(free_[k].begin());
        ++granted_[k];
        opening_[k].erase(t);
      } else {
        ready_[resource].erase(t);
      }
      emit(task);
      busy_[resource] = started = true;
      events_.push({now + rates_.seconds(task.resource, task.amount), t});
    }
    return started;
  }

  void complete(std::size_t t) {
    const Task& task = tasks_[t];
    busy_[static_cast<std::size_t>(task.resource)] = false;
    for (const int next : after_[t])
      if (--missing_[static_cast<std::size_t>(next)] == 0) make_ready(next);
    const auto r = static_cast<std::size_t>(task.record);
    for (std::size_t k = 0; k < kKinds; ++k)
      if (touches(task, static_cast<Kind>(k)) && --users_[r][k] == 0) free_[k].insert(windows_[r][k]);
  }

  void emit(const Task& task) {
    const UpdateShape& shape = schedule_.shape;
    const Slots& slots = schedule_.slots;
    const auto r = static_cast<std::size_t>(task.record);
    const Route& route = routes_[r];
    Instruction i;
    i.action = task.action;
    i.resource = task.resource;
    i.record = task.record;
    i.amount = task.amount;
    i.cpu_window = windows_[r][index(Kind::cpu)];
    i.gpu_window = windows_[r][index(Kind::gpu)];
    i.staging = windows_[r][index(Kind::staging)];
    const int home = slots.home(task.record);
    const int in_cpu = route.cpu_window ? slots.cpu_window(i.cpu_window) : home;  // the state while it is in CPU memory
    const int worked_on = route.gpu_window ? slots.gpu_window(i.gpu_window) : in_cpu;
    switch (task.action) {
      case Action::read_state: i.reads = {home}, i.writes = {in_cpu}; break;
      case Action::state_up: i.reads = {in_cpu}, i.writes = {worked_on}; break;
      case Action::grads_down: i.reads = {slots.grads(shape.records[r].unit)}, i.writes = {slots.staging(i.staging)}; break;
      case Action::update:
        i.reads = {slots.norm()};
        i.writes = {worked_on};
        if (route.staging) {
          i.writes.push_back(slots.staging(i.staging));
        } else {
          i.reads.push_back(slots.grads(shape.records[r].unit));
          i.writes.push_back(slots.params(task.record));
        }
        break;
      case Action::params_up:
        i.reads = {slots.staging(i.staging)};
        if (copies_p()) i.reads.push_back(in_cpu);
        i.writes = {slots.params(task.record)};
        break;
      case Action::state_down: i.reads = {worked_on}, i.writes = {in_cpu}; break;
      case Action::write_state: i.reads = {in_cpu}, i.writes = {home}; break;
    }
    schedule_.instructions.push_back(std::move(i));
  }

  const Rates rates_;
  const GradientTimes& times_;
  UpdateSchedule schedule_;
  std::vector<Task> tasks_;
  std::size_t first_task_ = 0;  // of the record that is added
  std::vector<int> missing_;
  std::vector<std::vector<int>> after_;
  std::vector<Route> routes_;
  std::vector<std::array<int, kKinds>> windows_;  // of each record
  std::vector<std::array<int, kKinds>> users_;    // tasks left that use them
  std::array<std::vector<int>, kKinds> waiting_;  // records by kind
  std::array<std::size_t, kKinds> granted_{};     // of waiting_
  std::array<std::set<int>, kKinds> free_;
  std::array<std::set<int>, kKinds> opening_;    // ready, and the first to use a window
  std::array<std::set<int>, kResources> ready_;  // the others
  std::array<bool, kResources> busy_{};
  std::priority_queue<At, std::vector<At>, std::greater<>> events_;
};

}  // namespace

std::size_t early_instructions(const UpdateSchedule& schedule) {
  const auto first = std::find_if(schedule.instructions.begin(), schedule.instructions.end(),
                                  [](const Instruction& i) { return i.action == Action::update; });
  return static_cast<std::size_t>(first - schedule.instructions.begin());
}

WindowCounts full_windows(const UpdateShape& shape) {
  constexpr int kEnough = 3;  // one filling, one worked on, one emptying
  WindowCounts counts;
  for (std::size_t r = 0; r < shape.records.size(); ++r) {
    const Route route = route_of(shape, r);
    counts.cpu = std::min(kEnough, counts.cpu + route.cpu_window);
    counts.gpu = std::min(kEnough, counts.gpu + route.gpu_window);
    counts.staging = std::min(kEnough, counts.staging + route.staging);
  }
  return counts;
}

UpdateSchedule make_update_schedule(const UpdateShape& shape, WindowCounts windows, const Rates& rates,
                                    const GradientTimes& times) {
  STRATA_CHECK(shape.placements.size() == shape.records.size(), "every record has a placement");
  return ListScheduler(shape, windows, rates, times).run();
}

}  // namespace strata
