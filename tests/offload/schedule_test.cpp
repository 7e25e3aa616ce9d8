// The update as a list of instructions: complete, ordered, its windows owned by one record at a time, and as short as its
// slowest resource. Mutations that must fail: grant windows out of record order with one window of each kind (deadlock); return
// a window before its last user; take the last ready task instead of the first.
#include "offload/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "offload/simulator.h"
#include "offload/update_plan.h"

namespace strata {
namespace {

constexpr std::int64_t kRecord = std::int64_t{1} << 20;

// `per_unit` records in each of `units` units.
UpdateShape shape_of(int units, int per_unit, const std::vector<RecordPlacement>& pattern, DType compute = DType::bf16) {
  UpdateShape shape;
  shape.units = units;
  shape.separate_memory = true;
  shape.compute = compute;
  for (int u = 0; u < units; ++u)
    for (int i = 0; i < per_unit; ++i) {
      shape.placements.push_back(pattern[shape.records.size() % pattern.size()]);
      shape.records.push_back({u, {i * kRecord, kRecord}, kRecord});
    }
  return shape;
}

const std::vector<RecordPlacement> kMixed = {{Tier::nvme, false}, {Tier::cpu, true},  {Tier::cpu, false},
                                             {Tier::gpu, true},   {Tier::nvme, true}, {Tier::cpu, false}};

Rates rates_of(double d2h, double h2d, double cpu, double gpu, double read, double write, double compute = 0.0) {
  Rates rates;
  rates[Resource::gpu_to_cpu] = d2h;
  rates[Resource::cpu_to_gpu] = h2d;
  rates[Resource::cpu_update] = cpu;
  rates[Resource::gpu_update] = gpu;
  rates[Resource::nvme_read] = read;
  rates[Resource::nvme_write] = write;
  rates[Resource::compute] = compute;
  return rates;
}

const Rates kRates = rates_of(20e9, 20e9, 1e9, 30e9, 6e9, 4e9);

std::vector<Action> actions_of(const UpdateSchedule& schedule, int record) {
  std::vector<Action> actions;
  for (const Instruction& i : schedule.instructions)
    if (i.record == record) actions.push_back(i.action);
  return actions;
}

TEST(UpdateSchedule, EveryRecordTakesItsRoute) {
  const UpdateShape shape = shape_of(1, 6, kMixed);
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates);
  using enum Action;
  const auto same = [&](int record, std::vector<Action> expected) {
    std::vector<Action> found = actions_of(schedule, record);
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(found, expected) << "record " << record;
  };
  same(0, {read_state, grads_down, update, params_up, write_state});
  same(1, {state_up, update, state_down});
  same(2, {grads_down, update, params_up});
  same(3, {update});
  same(4, {read_state, state_up, update, state_down, write_state});
}

TEST(UpdateSchedule, WhatLivesWhereItIsUpdatedDoesNotTravel) {
  UpdateShape shape = shape_of(1, 6, kMixed);
  using enum Action;
  const auto routes = [&](Tier params, Tier grads) {
    shape.unit_placements = {{params, grads}};
    const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates);
    std::vector<std::set<Action>> found;
    for (int r = 0; r < 5; ++r) {
      const std::vector<Action> actions = actions_of(schedule, r);
      found.emplace_back(actions.begin(), actions.end());
    }
    return found;
  };
  using Routes = std::vector<std::set<Action>>;
  EXPECT_EQ(routes(Tier::cpu, Tier::cpu),
            (Routes{{read_state, update, write_state},
                    {state_up, grads_up, update, params_down, state_down},
                    {update},
                    {grads_up, update, params_down},
                    {read_state, state_up, grads_up, update, params_down, state_down, write_state}}));
  EXPECT_EQ(routes(Tier::cpu, Tier::gpu), (Routes{{read_state, grads_down, update, write_state},
                                                  {state_up, update, params_down, state_down},
                                                  {grads_down, update},
                                                  {update, params_down},
                                                  {read_state, state_up, update, params_down, state_down, write_state}}));
  EXPECT_EQ(routes(Tier::gpu, Tier::cpu), (Routes{{read_state, update, params_up, write_state},
                                                  {state_up, grads_up, update, state_down},
                                                  {update, params_up},
                                                  {grads_up, update},
                                                  {read_state, state_up, grads_up, update, state_down, write_state}}));
}

TEST(UpdateSchedule, BetweenFileAndGpuDirectlyThereIsNoCopyAndNoCpuWindow) {
  UpdateShape shape = shape_of(1, 6, kMixed);
  const UpdateSchedule before = make_update_schedule(shape, full_windows(shape), kRates);
  shape.gpu_direct = true;
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates);
  using enum Action;
  EXPECT_EQ(actions_of(schedule, 4), (std::vector<Action>{read_state, update, write_state}));
  for (const int other : {0, 1, 2, 3, 5}) {
    const std::vector<Action> now = actions_of(schedule, other), then = actions_of(before, other);
    EXPECT_EQ(std::multiset(now.begin(), now.end()), std::multiset(then.begin(), then.end())) << "record " << other;
  }
  const int home = schedule.slots.home(4);
  for (const Instruction& i : schedule.instructions) {
    if (i.record != 4) continue;
    EXPECT_EQ(i.cpu_window, -1);
    ASSERT_GE(i.gpu_window, 0);
    const int window = schedule.slots.gpu_window(i.gpu_window);
    const auto has = [](const Few& slots, int s) { return std::find(slots.begin(), slots.end(), s) != slots.end(); };
    if (i.action == read_state) {
      EXPECT_TRUE(has(i.reads, home) && has(i.writes, window));
    }
    if (i.action == update) {
      EXPECT_TRUE(has(i.writes, window));
    }
    if (i.action == write_state) {
      EXPECT_TRUE(has(i.reads, window) && has(i.writes, home));
    }
  }
  EXPECT_EQ(full_windows(shape).cpu, 1) << "for the record that the CPU updates";
  EXPECT_EQ(full_windows(shape).gpu, 2);
  UpdateShape all = shape_of(2, 5, {{Tier::nvme, true}});
  all.gpu_direct = true;
  EXPECT_EQ(full_windows(all).cpu, 0);
  EXPECT_EQ(full_windows(all).gpu, 3);
  const StepForecast forecast = forecast_step(make_update_schedule(all, full_windows(all), kRates), {.units = 2}, kRates);
  const auto busy = [&](Resource resource) { return forecast.busy[static_cast<std::size_t>(resource)]; };
  EXPECT_EQ(busy(Resource::cpu_to_gpu), 0.0);
  EXPECT_EQ(busy(Resource::gpu_to_cpu), 0.0);
  EXPECT_NEAR(busy(Resource::nvme_read), 10 * kRecord * 12.0 / 6e9, 1e-9);
  EXPECT_NEAR(busy(Resource::nvme_write), 10 * kRecord * 12.0 / 4e9, 1e-9);
}

TEST(UpdateSchedule, WithOneMemoryOnlyFilesAreMoved) {
  UpdateShape shape = shape_of(1, 6, kMixed);
  shape.separate_memory = false;
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates);
  std::set<Resource> used;
  for (const Instruction& i : schedule.instructions) used.insert(i.resource);
  EXPECT_EQ(used, (std::set{Resource::cpu_update, Resource::nvme_read, Resource::nvme_write}));
}

// From the first instruction that names a window to the last one of the same record, no other record names it.
TEST(UpdateSchedule, AWindowHasOneOwnerAtATime) {
  for (const int windows : {1, 2, 3}) {
    for (const auto& [compute, elsewhere, direct] : {std::tuple(DType::f32, false, false),
                                                     {DType::bf16, false, true},
                                                     {DType::f32, true, true},
                                                     {DType::bf16, true, false}}) {
      UpdateShape shape = shape_of(4, 9, kMixed, compute);
      shape.gpu_direct = direct;
      if (elsewhere)
        shape.unit_placements = {
            {Tier::cpu, Tier::gpu}, {Tier::gpu, Tier::cpu}, {Tier::cpu, Tier::cpu}, {Tier::gpu, Tier::gpu}};
      for (std::size_t r = 0; r < shape.records.size(); ++r) shape.speculates.push_back(r % 3 != 0 && can_speculate(shape, r));
      const UpdateSchedule schedule = make_update_schedule(shape, {windows, windows, windows, windows}, kRates);
      const auto last_use = [&](std::size_t from, int slot) {
        std::size_t last = from;
        for (std::size_t j = from; j < schedule.instructions.size(); ++j) {
          const Instruction& i = schedule.instructions[j];
          const bool named =
              std::count(i.reads.begin(), i.reads.end(), slot) + std::count(i.writes.begin(), i.writes.end(), slot);
          if (named && i.record == schedule.instructions[from].record) last = j;
        }
        return last;
      };
      std::map<int, std::pair<int, std::size_t>> owner;  // by slot: the record, and its last use
      const int first_window = schedule.slots.cpu_window(0);
      for (std::size_t j = 0; j < schedule.instructions.size(); ++j) {
        const Instruction& i = schedule.instructions[j];
        std::vector<int> named(i.reads.begin(), i.reads.end());
        named.insert(named.end(), i.writes.begin(), i.writes.end());
        for (const int slot : named) {
          if (slot < first_window) continue;
          ASSERT_LT(slot, schedule.slots.count());
          const auto it = owner.find(slot);
          if (it != owner.end() && it->second.first == i.record) continue;
          const bool is_over = it == owner.end() || it->second.second < j;
          ASSERT_TRUE(is_over) << "slot " << slot << " taken from record " << it->second.first;
          owner[slot] = {i.record, last_use(j, slot)};
        }
      }
    }
  }
}

TEST(UpdateSchedule, BeforeTheNormStatesArriveAndGradientsLeave) {
  const UpdateShape shape = shape_of(3, 4, {{Tier::nvme, false}});
  GradientTimes times{.grads = {3.0, 2.0, 1.0}, .norm = 4.0};
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates, times);
  const std::size_t early = early_instructions(schedule);
  std::map<Action, int> counts;
  for (std::size_t i = 0; i < early; ++i) ++counts[schedule.instructions[i].action];
  EXPECT_EQ(counts, (std::map<Action, int>{{Action::read_state, 3}, {Action::grads_down, 3}}));
}

// The last unit's first, as a backward gives gradients; the others behind the norm, the first unit's first.
TEST(UpdateSchedule, WhatSpeculatesBeginsBeforeTheNorm) {
  UpdateShape shape = shape_of(3, 4, {{Tier::nvme, false}, {Tier::cpu, false}});
  shape.speculates = {0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1};
  const GradientTimes times{.grads = {3.0, 2.0, 1.0}, .norm = 4.0};
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates, times);
  const std::size_t early = early_instructions(schedule);
  std::vector<int> before, behind;
  for (std::size_t i = 0; i < schedule.instructions.size(); ++i) {
    const Instruction& instruction = schedule.instructions[i];
    if (instruction.action != Action::update) continue;
    (i < early ? before : behind).push_back(instruction.record);
    EXPECT_EQ(std::count(instruction.reads.begin(), instruction.reads.end(), schedule.slots.norm()), i < early ? 0 : 1);
  }
  EXPECT_EQ(before, (std::vector<int>{11, 10, 9, 8, 7, 5}));
  EXPECT_EQ(behind, (std::vector<int>{0, 1, 2, 3, 4, 6}));
}

// Every second record has rows of matrices.
TEST(UpdateSchedule, RowsAreAllMeasuredBeforeAnyIsUpdated) {
  for (const UnitPlacement& homes :
       {UnitPlacement{Tier::gpu, Tier::gpu}, UnitPlacement{Tier::cpu, Tier::cpu}, UnitPlacement{Tier::gpu, Tier::nvme}}) {
    UpdateShape shape = shape_of(4, 6, kMixed);
    shape.unit_placements.assign(4, homes);
    shape.two_passes = true;
    for (std::size_t r = 0; r < shape.records.size(); r += 2) {
      shape.records[r].rows = 256;
      shape.records[r].row_states = 2048;
      shape.records[r].projecting = 4.0 * kRecord;
    }
    const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), kRates);
    const std::size_t through = measuring_instructions(schedule);
    ASSERT_GT(through, 0u);
    std::set<int> measured, updated;
    std::map<int, int> grads_came;
    for (std::size_t i = 0; i < schedule.instructions.size(); ++i) {
      const Instruction& instruction = schedule.instructions[i];
      const auto r = static_cast<std::size_t>(instruction.record);
      EXPECT_FALSE(can_speculate(shape, r));
      if (instruction.action == Action::grads_up || instruction.action == Action::grads_down) ++grads_came[instruction.record];
      if (instruction.action == Action::measure) {
        EXPECT_TRUE(measured.insert(instruction.record).second) << "once";
        EXPECT_TRUE(measures(shape, r));
        EXPECT_LT(i, through);
        EXPECT_EQ(instruction.resource, route_of(shape, r).on_gpu ? Resource::gpu_update : Resource::cpu_update);
      }
      if (instruction.action == Action::update) {
        updated.insert(instruction.record);
        if (measures(shape, r)) {
          EXPECT_GE(i, through);
          EXPECT_EQ(measured.size(), shape.records.size() / 2);
        }
      }
    }
    EXPECT_EQ(measured.size(), shape.records.size() / 2);
    EXPECT_EQ(updated.size(), shape.records.size());
    EXPECT_EQ(schedule.instructions[through - 1].action, Action::measure);
    for (const auto& [record, times] : grads_came)
      EXPECT_EQ(times, measures(shape, static_cast<std::size_t>(record)) ? 2 : 1) << "record " << record;
    const StepForecast with = forecast_step(schedule, {.units = 4}, kRates);
    shape.two_passes = false;
    for (OptimizerRecord& record : shape.records) record.rows = record.row_states = 0, record.projecting = 0.0;
    const StepForecast without = forecast_step(make_update_schedule(shape, full_windows(shape), kRates), {.units = 4}, kRates);
    EXPECT_GT(with.step_seconds, without.step_seconds) << "measuring takes time";
  }
}

TEST(UpdateSchedule, TheOrderDependsOnRatesAloneAndIsRepeated) {
  const UpdateShape shape = shape_of(4, 9, kMixed);
  const auto order = [&](const Rates& rates) {
    std::vector<std::pair<int, Action>> all;
    for (const Instruction& i : make_update_schedule(shape, full_windows(shape), rates).instructions)
      all.emplace_back(i.record, i.action);
    return all;
  };
  EXPECT_EQ(order(kRates), order(kRates));
  EXPECT_NE(order(kRates), order(rates_of(20e9, 20e9, 1e9, 30e9, 1e8, 4e9)));
}

// By hand: three records of 1 Mi parameters, read 1 s, update 2 s, write 1 s each; the norm is there at 0.
TEST(Simulator, AddsUpAPipelineAsByHand) {
  UpdateShape shape = shape_of(1, 3, {{Tier::nvme, false}});
  shape.separate_memory = false;
  const double bytes = state_bytes(shape, 0);
  const Rates rates = rates_of(0, 0, kRecord / 2.0, 0, bytes, bytes);
  const UpdateSchedule schedule = make_update_schedule(shape, full_windows(shape), rates);
  const StepForecast forecast = forecast_step(schedule, {.units = 1}, rates);
  EXPECT_EQ(forecast.bound(), Resource::cpu_update);
  EXPECT_DOUBLE_EQ(forecast.bound_seconds(), 6.0);
  // Repeating: the next step's first reads run under this one's updates; compute takes no time.
  EXPECT_NEAR(forecast.step_seconds, 6.0, 1.01);
  std::map<std::pair<int, Action>, double> begin;
  for (const TimedOperation& t : forecast.timeline)
    if (t.instruction >= 0) {
      const Instruction& i = schedule.instructions[static_cast<std::size_t>(t.instruction)];
      begin[{i.record, i.action}] = t.begin;
    }
  const double first = begin.at({0, Action::update});
  EXPECT_DOUBLE_EQ(begin.at({1, Action::update}), first + 2.0);
  EXPECT_DOUBLE_EQ(begin.at({2, Action::update}), first + 4.0);
  EXPECT_DOUBLE_EQ(begin.at({0, Action::write_state}), first + 2.0);
  EXPECT_DOUBLE_EQ(begin.at({2, Action::write_state}), first + 6.0);
}

// By hand: three units, the last one the head; a forward takes 1 s and a unit's parameters 1 s on their way up. The first copy
// is waited for, each other one is under the compute before.
TEST(Simulator, FetchesUnitsAheadAsByHand) {
  UpdateSchedule nothing;
  nothing.shape.units = 3;
  nothing.slots = Slots(3, 0, {});
  const Rates rates = rates_of(0, 1.0, 0, 0, 0, 0, 1.0);
  ComputeShape compute{.units = 3, .params_up = {1.0, 1.0, 1.0}};
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).step_seconds, 10.0);
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).busy[static_cast<std::size_t>(Resource::cpu_to_gpu)], 5.0);
  compute.prefetch_units = 0;
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).step_seconds, 14.0);
  compute.micro_batches = 2;
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).step_seconds, 28.0);
  compute.vertical = true;
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).step_seconds, 23.0);
}

// By hand: sums take 3 s to leave, two units' at a time, so the last backward waits for memory until 8 s.
TEST(Simulator, SumsLeaveBehindTheBackwardAsByHand) {
  const Rates rates = rates_of(1.0, 1.0, 0, 0, 0, 0, 1.0);
  ComputeShape compute{.units = 3, .grads_down = {3.0, 3.0, 3.0}, .grads_between = {2.0, 2.0, 2.0}};
  GradientTimes times = gradient_times(compute, rates);
  EXPECT_EQ(times.grads, (std::vector<double>{14.0, 11.0, 8.0}));
  EXPECT_DOUBLE_EQ(times.norm, 10.0);
  // The next step begins when the last sums have left, at 14 s.
  UpdateSchedule nothing;
  nothing.shape.units = 3;
  nothing.slots = Slots(3, 0, {});
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).step_seconds, 14.0);
  compute.micro_batches = 2;
  compute.vertical = true;
  times = gradient_times(compute, rates);
  // Backwards of the head end at 7 and 10, of the next unit at 12 and, waiting for the head's sums to have left, at 15.
  EXPECT_EQ(times.grads, (std::vector<double>{23.0, 18.0, 13.0}));
  compute.vertical = false;
  times = gradient_times(compute, rates);
  // The first micro-batch ends at 9 s. The second one's backwards end at 14, 16 and, because of memory, 21; each unit's sums
  // come back in 2 s and leave in 3.
  EXPECT_EQ(times.grads, (std::vector<double>{26.0, 22.0, 19.0}));
}

// By hand: three units and the head, a forward takes 1 s, a copy of what a unit keeps 2 s each way. Both units' forwards end at
// 2 s, the copies at 3 and 5 s; the head waits for the second, until when it could have begun at 3 s. The second one's comes
// back at 7 s, under the head, and the first one's behind the third unit's backward, from 10 to 12 s: nothing more waits. With
// NVMe behind it, what was copied at 3 and 5 s is written by 5 and 7 s, read by 9 and 11 s, and copied by 11 and 13 s.
TEST(Simulator, ActivationsLeaveAndComeBackAsByHand) {
  UpdateSchedule nothing;
  nothing.shape.units = 4;
  nothing.slots = Slots(4, 0, {});
  const Rates rates = rates_of(1.0, 1.0, 0, 0, 1.0, 1.0, 1.0);
  ComputeShape compute{.units = 4};
  const auto step = [&] { return forecast_step(nothing, compute, rates).step_seconds; };
  EXPECT_DOUBLE_EQ(step(), 12.0);
  compute.recomputes = {0, 1, 1, 0};
  EXPECT_DOUBLE_EQ(step(), 14.0);
  compute.recomputes = {};
  compute.activations_away = {2.0, 2.0, 0.0, 0.0};
  EXPECT_DOUBLE_EQ(step(), 14.0);
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).busy[static_cast<std::size_t>(Resource::gpu_to_cpu)], 4.0);
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).busy[static_cast<std::size_t>(Resource::nvme_write)], 0.0);
  compute.activations_on_nvme = {1, 1, 0, 0};
  EXPECT_DOUBLE_EQ(step(), 15.0);
  EXPECT_DOUBLE_EQ(forecast_step(nothing, compute, rates).busy[static_cast<std::size_t>(Resource::nvme_read)], 4.0);
  // Ahead enough, both come back under the head and the third unit.
  compute.activations_on_nvme = {};
  compute.prefetch_units = 2;
  EXPECT_DOUBLE_EQ(step(), 14.0);
  // All three leave: the third unit's forward waits until the first one's has left, and the head for the last copy, at 7 s,
  // with which the backward begins.
  compute.prefetch_units = 1;
  compute.activations_away = {2.0, 2.0, 2.0, 0.0};
  EXPECT_DOUBLE_EQ(step(), 16.0);
}

// By hand: a forward takes 1 s, so both units' forward and backward take 6 s, and the head's gradients are there 2 s before the
// norm. An update takes 4 s. Waiting for the norm: the head's parameters come 8 s behind it, and its forward and backward and
// the first unit's backward take 5 s more. With the head's record first: the first unit's come 6 s behind the norm. No late
// update: everything waits for 8 s.
TEST(Simulator, UpdatesThatDoNotWaitForTheNormAsByHand) {
  UpdateShape shape = shape_of(2, 1, {{Tier::cpu, false}});
  shape.separate_memory = false;
  const Rates rates = rates_of(0, 0, kRecord / 4.0, 0, 0, 0, 1.0);
  ComputeShape compute{.units = 2};
  const auto step = [&] {
    return forecast_step(make_update_schedule(shape, {}, rates, gradient_times(compute, rates)), compute, rates).step_seconds;
  };
  EXPECT_DOUBLE_EQ(step(), 13.0);
  shape.speculates = {0, 1};
  EXPECT_DOUBLE_EQ(step(), 12.0);
  shape.speculates = {};
  compute.delayed_share = 0.0;
  EXPECT_DOUBLE_EQ(step(), 14.0);
  compute.delayed_share = 0.5;
  EXPECT_DOUBLE_EQ(step(), 13.0);
}

TEST(Simulator, ALongUpdateTakesLittleMoreThanItsSlowestResource) {
  const Rates sets[] = {rates_of(20e9, 20e9, 1e9, 30e9, 6e9, 4e9),  rates_of(2e9, 20e9, 1e9, 30e9, 20e9, 20e9),
                        rates_of(20e9, 2e9, 1e9, 30e9, 20e9, 20e9), rates_of(20e9, 20e9, 1e8, 30e9, 20e9, 20e9),
                        rates_of(20e9, 20e9, 1e9, 2e8, 20e9, 20e9), rates_of(20e9, 20e9, 1e9, 30e9, 1e9, 20e9),
                        rates_of(20e9, 20e9, 1e9, 30e9, 20e9, 1e9)};
  const UpdateShape shape = shape_of(10, 12, kMixed);
  for (const Rates& rates : sets) {
    const StepForecast forecast = forecast_step(make_update_schedule(shape, full_windows(shape), rates), {.units = 10}, rates);
    EXPECT_LE(forecast.step_seconds, 1.1 * forecast.bound_seconds()) << to_string(forecast.bound());
    EXPECT_GE(forecast.step_seconds, 0.999 * forecast.bound_seconds());
  }
}

TEST(UpdatePlan, SpreadsEvenlyAtEveryFraction) {
  const std::vector<Tier> homes(100, Tier::cpu);
  for (const double fraction : {0.0, 0.01, 1.0 / 3.0, 0.5, 0.77, 1.0}) {
    int seen = 0, on_gpu = 0;
    for (const RecordPlacement& p : spread(homes, fraction)) {
      ++seen;
      on_gpu += p.on_gpu;
      EXPECT_NEAR(on_gpu, fraction * seen, 0.5 + 1e-9) << "after " << seen << " at " << fraction;
    }
  }
}

TEST(UpdatePlan, StrideAndHomesOnTheGpu) {
  const std::vector<RecordPlacement> placed = by_stride({Tier::gpu, Tier::cpu, Tier::cpu, Tier::nvme, Tier::cpu}, 2);
  EXPECT_EQ(placed, (std::vector<RecordPlacement>{
                        {Tier::gpu, true}, {Tier::cpu, false}, {Tier::cpu, true}, {Tier::nvme, false}, {Tier::cpu, true}}));
}

TEST(UpdatePlan, FillsTheGpuThenTheCpuFromTheFirstUnit) {
  const std::vector<double> ten(5, 10.0);
  EXPECT_EQ(place_gradually(ten, ten, 25, 10), (std::vector<Tier>{Tier::gpu, Tier::gpu, Tier::cpu, Tier::nvme, Tier::nvme}));
  EXPECT_EQ(place_gradually({10, 30, 10, 10, 10}, {10, 40, 10, 10, 10}, 25, 50),
            (std::vector<Tier>{Tier::gpu, Tier::cpu, Tier::cpu, Tier::nvme, Tier::nvme}));
}

// f* = (P - 2 U) / (P + 10 U) for copies of P bytes/s each way and a CPU of U parameters/s (bf16), while the GPU is fast.
TEST(UpdatePlan, ChoosesTheFractionThatTheEquationsGive) {
  for (const auto& [p, u] : {std::pair(25e9, 1.6e9), std::pair(50e9, 2e9), std::pair(50e9, 4e9)}) {
    const Rates rates = rates_of(p, p, u, 200e9, 0, 0);
    const UpdatePlan plan = plan_updates(shape_of(8, 25, {{Tier::cpu, false}}), {}, {.units = 8}, rates);
    EXPECT_NEAR(plan.gpu_fraction, (p - 2 * u) / (p + 10 * u), 0.06) << p << " " << u;
    const double ideal = 200.0 * kRecord / (p / 12 + u * 10 / 12);
    EXPECT_LE(plan.forecast->step_seconds, 1.13 * ideal)  // filling and draining the pipeline
        << p << " " << u;
  }
}

TEST(UpdatePlan, WithoutRatesOrWithASlowLinkTheCpuUpdates) {
  const UpdateShape shape = shape_of(2, 5, {{Tier::cpu, false}});
  EXPECT_EQ(plan_updates(shape, {}, {.units = 2}, {}).gpu_fraction, 0.0);
  EXPECT_EQ(plan_updates(shape, {}, {.units = 2}, rates_of(1e8, 1e8, 1e9, 30e9, 0, 0)).gpu_fraction, 0.0);
  EXPECT_EQ(plan_updates(shape, {.gpu_fraction = 0.4}, {.units = 2}, {}).gpu_fraction, 0.4);
}

TEST(UpdatePlan, SpeculatesAsFarAsTheStepGetsShorterAndCopiesHaveRoom) {
  const UpdateShape shape = shape_of(6, 10, {{Tier::cpu, false}});
  const ComputeShape compute{.units = 6};
  Rates rates = kRates;
  rates[Resource::compute] = 500.0;  // 36 ms a step, and the CPU's update 63
  UpdateShare share{.gpu_fraction = 0.0, .speculation = {}};
  const UpdatePlan chosen = plan_updates(shape, share, compute, rates);
  const UpdatePlan waits = plan_updates(shape, {.gpu_fraction = 0.0}, compute, rates);
  EXPECT_EQ(waits.speculating, 0);
  EXPECT_FALSE(waits.waiting);
  ASSERT_TRUE(chosen.waiting);
  EXPECT_GT(chosen.speculating, 5);
  EXPECT_LT(chosen.forecast->step_seconds, 0.85 * waits.forecast->step_seconds);
  // While the head computes there is nothing to update: all parameters are new, and no gradient is there.
  const double head = compute_amount_head(false) / rates[Resource::compute];
  EXPECT_LE(chosen.forecast->step_seconds, 1.06 * (chosen.forecast->bound_seconds() + head));
  share.shadow_bytes = 4.5 * state_bytes(shape, 0);
  const UpdatePlan few = plan_updates(shape, share, compute, rates);
  EXPECT_EQ(few.speculating, 4);
  for (std::size_t r = 0; r < shape.records.size(); ++r)
    EXPECT_EQ(speculates(few.schedule.shape, r), r >= shape.records.size() - 4) << r;
  EXPECT_EQ(plan_updates(shape, {.speculation = {}}, compute, {}).speculating, 0) << "without rates";
}

TEST(UpdatePlan, IsWithinFivePercentOfTheBestOfASweep) {
  const UpdateShape shape = shape_of(6, 10, {{Tier::cpu, false}, {Tier::nvme, false}});
  for (const Rates& rates : {kRates, rates_of(10e9, 10e9, 2e9, 30e9, 3e9, 3e9), rates_of(40e9, 10e9, 5e8, 2e9, 9e9, 9e9)}) {
    const ComputeShape compute{.units = 6};
    double best = 1e300;
    for (int i = 0; i <= 100; ++i)
      best = std::min(best, plan_updates(shape, {.gpu_fraction = i / 100.0}, compute, rates).forecast->step_seconds);
    EXPECT_LE(plan_updates(shape, {}, compute, rates).forecast->step_seconds, 1.05 * best);
  }
}

}  // namespace
}  // namespace strata
