// What DESIGN.md 5 lets run beside each other is not ordered by anything that streams wait for, and what must be ordered is: so
// it is without a clock, and on the emulator as on a GPU. Of two ranks that are given the same, one is looked at: whatever
// orders two operations of a rank by way of the other has its like within the rank.
// Mutations that must fail: prefetch behind the unit's compute; compute waits for each reduction; updates that begin behind the
// backward; the window used last is given first; compute waits for the update; and acquire(), reduce() or publish() without
// their waits.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"
#include "tests/trainer/stream_order.h"

namespace strata {
namespace {

using Operation = StreamOrder::Operation;
using Operations = std::vector<Operation>;

constexpr int kSteps = 3;
constexpr int kWorld = 2;

std::string describe(const Operation& o) {
  return "'" + o.name + "' " + std::to_string(o.number) + " of stream " + o.stream + ", step " + std::to_string(o.step) +
         (o.part.empty() ? "" : ", " + o.part);
}

// Every one of `first` is complete before any of `second` begins.
void expect_ordered(const Operations& first, const Operations& second) {
  ASSERT_TRUE(!first.empty() && !second.empty());
  for (const Operation& a : first)
    for (const Operation& b : second) ASSERT_TRUE(is_before(a, b)) << describe(a) << " may be late for " << describe(b);
}

// Each of `some` may run beside each of `others`.
void expect_concurrent(const Operations& some, const Operations& others) {
  ASSERT_TRUE(!some.empty() && !others.empty());
  for (const Operation& a : some)
    for (const Operation& b : others) {
      ASSERT_FALSE(is_before(a, b)) << describe(b) << " waits for " << describe(a);
      ASSERT_FALSE(is_before(b, a)) << describe(a) << " waits for " << describe(b);
    }
}

// A training of some steps as rank 0 enqueued it.
struct Observed {
  Status status;
  int head = 0;  // unit
  UpdateSchedule schedule;
  Operations operations;  // of the steps

  Operations part(int step, const std::string& part) const {
    return pick([&](const Operation& o) { return o.step == step && o.part == part; });
  }
  Operations named(int step, const std::string& stream, const std::string& name) const {
    return pick([&](const Operation& o) { return o.step == step && o.stream == stream && o.name == name; });
  }
  // What computes when the parameters are gathered for the kth time in a step.
  Operations compute(int step, int k) const {
    if (k < head) return part(step, "forward " + std::to_string(k));
    return k == head ? part(step, "head " + std::to_string(k)) : backward(step, 2 * head - k);
  }
  Operations backward(int step, int unit) const {
    return part(step, unit == head ? "head " + std::to_string(unit) : "backward " + std::to_string(unit));
  }
  // The operation of an instruction: a stream that only an update uses has those of its schedule, step by step.
  Operation of(int step, Action action, int record) const {
    std::size_t at = 0, found = 0;
    Resource resource = Resource::compute;
    for (const Instruction& i : schedule.instructions)
      if (i.action == action && i.record == record) resource = i.resource;
    for (const Instruction& i : schedule.instructions) {
      if (i.resource != resource) continue;
      if (i.action == action && i.record == record) found = at;
      ++at;
    }
    const Operations there = pick([&](const Operation& o) { return o.stream == to_string(resource) && o.part.empty(); });
    const std::size_t all = static_cast<std::size_t>(kSteps) * at;
    EXPECT_TRUE(at > 0 && there.size() == all) << to_string(action) << ": " << there.size() << " operations of " << all;
    return there.size() == all ? there[static_cast<std::size_t>(step - 1) * at + found] : Operation();
  }
  // The order of their updates.
  std::vector<int> records() const {
    std::vector<int> all;
    for (const Instruction& i : schedule.instructions)
      if (i.action == Action::update) all.push_back(i.record);
    return all;
  }
  int unit_of(int record) const { return schedule.shape.records[static_cast<std::size_t>(record)].unit; }
  Operations of_unit(int step, Action action, int unit) const {
    Operations all;
    for (const int r : records())
      if (unit_of(r) == unit) all.push_back(of(step, action, r));
    return all;
  }

 private:
  template <class Wanted>
  Operations pick(const Wanted& wanted) const {
    Operations all;
    std::copy_if(operations.begin(), operations.end(), std::back_inserter(all), wanted);
    return all;
  }
};

// speculates: nothing is clipped and every step updates without waiting for the norm.
Observed train(const Placement& placement, bool speculates = false) {
  const TemporaryFolder folder;
  Config config = config_of(placement, folder.path(), DType::bf16);
  config.model.tie_embeddings = false;
  config.training.global_batch_size = kWorld;
  if (speculates) config.training.clip_grad = 0.0;
  const Config resolved = resolve(config, WorldSize{kWorld}, {.train = true}).value();
  const testing::GpuMachine& machine = testing::gpu_machines()[0];
  ThreadGroup group(WorldSize{kWorld});
  const testing::GpuCommunicators communicators;
  std::vector<Observed> ranks(kWorld);
  const auto rank_main = [&](int rank) {
    Observed& result = ranks[static_cast<std::size_t>(rank)];
    StreamOrder order;
    const std::unique_ptr<Communicator> comm = group.communicator(Rank{rank});
    const auto environment = Environment::from_communicator(*comm, kWorld);
    TrainerExtras extras;
    extras.train = std::make_shared<FormulaSource>(61);
    extras.model = observed(make_model(model_config(resolved)).value(), order);
    extras.make_gpu = [&] { return Result<std::unique_ptr<GpuDriver>>(machine.make_driver_of(rank)); };
    extras.make_gpu_communicator = communicators.maker();
    auto trainer = Trainer::create(config, *environment, std::move(extras));
    result.status = trainer.status();
    for (int i = 0; i < kSteps && result.status.ok(); ++i) {
      order.begin_step();
      result.status = (*trainer)->step().status();
    }
    if (!result.status.ok()) return;
    result.status = (*trainer)->engine().finish();
    result.schedule = (*trainer)->engine().optimizer().plan().schedule;
    result.head = result.schedule.shape.units - 1;
    result.operations = order.operations();
    std::erase_if(result.operations, [](const Operation& o) { return o.step == 0; });
  };
  std::thread other(rank_main, 1);
  rank_main(0);
  other.join();
  EXPECT_TRUE(ranks[0].status.ok()) << ranks[0].status.message();
  EXPECT_TRUE(ranks[1].status.ok()) << ranks[1].status.message();
  return std::move(ranks[0]);
}

class GpuOverlap : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const int gpus = testing::gpu_machines()[0].gpus; gpus < kWorld)
      GTEST_SKIP() << kWorld << " ranks want as many GPUs, here are " << gpus;
  }
};

TEST_F(GpuOverlap, GathersAndReductionsRunBesideTheNeighboursCompute) {
  const Observed run = train({3, Tier::cpu, 4096, false});
  ASSERT_TRUE(run.status.ok());
  for (int step = 1; step <= kSteps; ++step) {
    const Operations gathers = run.named(step, "communication", "all_gather parameters");
    ASSERT_EQ(gathers.size(), static_cast<std::size_t>(2 * run.head + 1)) << "one for each use";
    for (std::size_t k = 0; k < gathers.size(); ++k) {
      expect_ordered({gathers[k]}, run.compute(step, static_cast<int>(k)));
      if (k > 0) expect_concurrent({gathers[k]}, run.compute(step, static_cast<int>(k) - 1));
    }
    const Operations reductions = run.named(step, "communication", "reduce_scatter gradients");
    ASSERT_EQ(reductions.size(), static_cast<std::size_t>(run.head + 1));
    for (int u = run.head; u >= 0; --u) {
      const Operation& reduction = reductions[static_cast<std::size_t>(run.head - u)];
      expect_ordered(run.backward(step, u), {reduction});
      if (u > 0) expect_concurrent({reduction}, run.backward(step, u - 1));
    }
  }
}

TEST_F(GpuOverlap, TheCpuUpdatesOneRecordWhileItsNeighboursTravelAndTheNextForwardRuns) {
  const Observed run = train({3, Tier::cpu, 4096, false});
  ASSERT_TRUE(run.status.ok());
  const std::vector<int> records = run.records();
  ASSERT_GT(records.size(), 4u);
  for (int step = 1; step <= kSteps; ++step)
    for (std::size_t k = 0; k < records.size(); ++k) {
      const int r = records[k];
      const Operation update = run.of(step, Action::update, r);
      expect_ordered({run.of(step, Action::grads_down, r)}, {update});
      expect_ordered({update}, {run.of(step, Action::params_up, r)});
      if (k + 1 == records.size()) continue;
      expect_concurrent({run.of(step, Action::grads_down, records[k + 1])}, {update});
      expect_concurrent({run.of(step, Action::params_up, r)}, {run.of(step, Action::update, records[k + 1])});
    }
  for (int step = 1; step < kSteps; ++step)
    for (int u = 0; u <= run.head; ++u) {
      if (run.of_unit(step, Action::update, u).empty()) continue;  // all of it is the other rank's
      expect_ordered(run.named(step, "communication", "reduce_scatter gradients"), run.of_unit(step, Action::update, u));
      expect_ordered(run.of_unit(step, Action::params_up, u), run.compute(step + 1, u));
      if (u > 0) expect_concurrent(run.of_unit(step, Action::update, u), run.compute(step + 1, 0));
    }
}

TEST_F(GpuOverlap, GradientsLeaveAndAreUpdatedBesideTheBackwardWhereNothingIsClipped) {
  Placement placement = {3, Tier::cpu, 4096, false};
  placement.grads = Tier::cpu;
  placement.speculation = 1.0;
  const Observed run = train(placement, true);
  ASSERT_TRUE(run.status.ok());
  for (int step = 1; step <= kSteps; ++step) {
    const Operations leave = run.named(step, "gpu to cpu", "copy");
    ASSERT_EQ(leave.size(), static_cast<std::size_t>(run.head + 1));
    for (int u = run.head; u >= 0; --u) {
      const auto k = static_cast<std::size_t>(run.head - u);
      const Operations updates = run.of_unit(step, Action::update, u);
      expect_ordered({run.named(step, "communication", "reduce_scatter gradients")[k]}, {leave[k]});
      if (!updates.empty()) expect_ordered({leave[k]}, updates);
      // Two units' gradients have memory: the second one behind waits.
      if (u > 0) expect_concurrent({leave[k]}, run.backward(step, u - 1));
      for (int earlier = u - 1; earlier >= 0 && !updates.empty(); --earlier)
        expect_concurrent(updates, run.backward(step, earlier));
    }
  }
}

TEST_F(GpuOverlap, TheGpuUpdatesOneRecordWhileItsNeighboursTravelBetweenAllTiers) {
  const Observed run = train({3, Tier::nvme, 4096, false, 1.0});
  ASSERT_TRUE(run.status.ok());
  const std::vector<int> records = run.records();
  ASSERT_GT(records.size(), 4u);
  const std::vector<Action> way = {Action::read_state, Action::state_up, Action::update, Action::state_down,
                                   Action::write_state};
  for (int step = 1; step <= kSteps; ++step)
    for (std::size_t k = 0; k + 1 < records.size(); ++k) {
      const int r = records[k], next = records[k + 1];
      for (std::size_t i = 0; i + 1 < way.size(); ++i) {
        SCOPED_TRACE(std::string(to_string(way[i])) + " of record " + std::to_string(next) + ", step " + std::to_string(step));
        expect_ordered({run.of(step, way[i], r)}, {run.of(step, way[i + 1], r)});
        expect_concurrent({run.of(step, way[i], next)}, {run.of(step, way[i + 1], r)});
      }
      if (step > 1) expect_ordered({run.of(step - 1, Action::write_state, r)}, {run.of(step, Action::read_state, r)});
    }
}

TEST_F(GpuOverlap, ActivationsLeaveAndReturnBesideTheNeighboursCompute) {
  Placement placement = {3, Tier::gpu, 4096, false};
  placement.activations = Tier::cpu;
  const Observed run = train(placement);
  ASSERT_TRUE(run.status.ok());
  // The first block and the second: the embedding keeps nothing, and what the last block keeps is needed next.
  ASSERT_EQ(run.head, 4);
  for (int step = 1; step <= kSteps; ++step) {
    const Operations down = run.named(step, "gpu to cpu", "copy"), up = run.named(step, "cpu to gpu", "copy");
    ASSERT_EQ(down.size(), up.size());
    ASSERT_EQ(down.size() % 2, 0u);
    const auto half = static_cast<std::ptrdiff_t>(down.size() / 2);
    const std::map<int, Operations> down_of = {{1, {down.begin(), down.begin() + half}},
                                               {2, {down.begin() + half, down.end()}}},
                                    up_of = {{2, {up.begin(), up.begin() + half}}, {1, {up.begin() + half, up.end()}}};
    for (const int u : {1, 2}) {
      expect_ordered(run.compute(step, u), down_of.at(u));
      expect_concurrent(down_of.at(u), run.compute(step, u + 1));
      expect_ordered(down_of.at(u), up_of.at(u));
      expect_concurrent(up_of.at(u), run.backward(step, u + 1));
      expect_ordered(up_of.at(u), run.backward(step, u));
    }
  }
}

}  // namespace
}  // namespace strata
