// Every schedule for 1 to 12 stages and 1 to 32 micro-batches: complete, in order, without deadlock where sends wait for their
// receives, as long and with as many live activations as the published formulas say. Mutations that must fail: a warm-up of one
// more or less; chunks in another order; a gradient of weights that is not late; transfers behind the compute that needs them;
// transfers that peers list in another order.
#include "parallel/pipeline_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "parallel/pipeline_forecast.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Kind = PipelineCompute::Kind;
using Mode = PipelineTransferMode;

constexpr double kForward = 3.0, kInputs = 4.0, kWeights = 2.0, kBoth = kForward + kInputs + kWeights;

struct Tested {
  PipelineSchedule schedule;
  PipelineShape shape;
};

std::vector<Tested> all_shapes() {
  std::vector<Tested> all;
  const int step = testing::kSanitized ? 5 : 1;
  for (int stages = 1; stages <= 12; stages += testing::kSanitized ? 3 : 1)
    for (int m = 1; m <= 32; m += step)
      for (int chunks = 1; chunks <= 4; ++chunks) {
        all.push_back({PipelineSchedule::interleaved, {stages, m, chunks}});
        all.push_back({PipelineSchedule::forward, {stages, m, chunks}});
        if (chunks > 1) continue;
        for (const auto schedule : {PipelineSchedule::gpipe, PipelineSchedule::one_f_one_b, PipelineSchedule::zb_h1})
          all.push_back({schedule, {stages, m, chunks}});
      }
  return all;
}

std::string describe(const Tested& t) {
  return std::string(to_string(t.schedule)) + " of " + std::to_string(t.shape.stages) + " stages, " +
         std::to_string(t.shape.micro_batches) + " micro-batches, " + std::to_string(t.shape.chunks) + " chunks";
}

PipelineCosts costs(const PipelineShape& shape, double transfer = 0.0) {
  return {.parts = std::vector<PipelineCosts::Part>(static_cast<std::size_t>(shape.parts()), {kForward, kInputs, kWeights}),
          .transfer = transfer};
}

// Of every part, what it computes: all of it, once, in the order of micro-batches; and each on its stage.
void expect_complete(const Tested& t, const PipelineProgram& program) {
  std::map<std::pair<int, Kind>, int> next;
  for (int s = 0; s < t.shape.stages; ++s)
    for (const PipelineInstruction& i : program.stages[static_cast<std::size_t>(s)])
      if (const auto* compute = std::get_if<PipelineCompute>(&i)) {
        ASSERT_EQ(t.shape.stage_of(compute->part), s);
        ASSERT_EQ(compute->micro_batch, (next[{compute->part, compute->kind}]++));
      }
  std::vector<Kind> kinds = {Kind::forward};
  if (t.schedule == PipelineSchedule::zb_h1)
    kinds = {Kind::forward, Kind::backward_inputs, Kind::backward_weights};
  else if (t.schedule != PipelineSchedule::forward)
    kinds.push_back(Kind::backward);
  ASSERT_EQ(next.size(), kinds.size() * static_cast<std::size_t>(t.shape.parts()));
  for (const auto& [of, n] : next) {
    ASSERT_EQ(n, t.shape.micro_batches);
    ASSERT_TRUE(std::find(kinds.begin(), kinds.end(), of.second) != kinds.end());
  }
}

// Both sides of every pair of stages list what they share alike.
void expect_pairs(const PipelineProgram& program) {
  std::map<std::pair<int, int>, std::vector<std::tuple<bool, int, int>>> sent, received;
  for (int s = 0; s < std::ssize(program.stages); ++s)
    for (const PipelineInstruction& i : program.stages[static_cast<std::size_t>(s)])
      if (const auto* t = std::get_if<PipelineTransfer>(&i))
        (t->is_sent ? sent[{s, t->peer}] : received[{t->peer, s}]).emplace_back(t->is_gradient, t->micro_batch, t->from);
  ASSERT_EQ(sent, received);
}

TEST(PipelineSchedules, AreCompleteAndEndWhereSendsWait) {
  for (const Tested& t : all_shapes()) {
    SCOPED_TRACE(describe(t));
    const PipelineProgram program = make_pipeline(t.schedule, t.shape);
    expect_complete(t, program);
    expect_pairs(program);
    if (HasFatalFailure()) return;
    for (const Mode mode : {Mode::blocking, Mode::queues}) {
      const auto forecast = forecast_pipeline(program, costs(t.shape, 0.5), mode);
      ASSERT_TRUE(forecast.ok()) << forecast.status().message();
    }
  }
}

// Seconds by the formulas of the papers. A chunk has 1 / chunks of a stage's work: here each costs as much as a whole stage.
double published(const Tested& t, int micro_batches) {
  const int p = t.shape.stages, m = micro_batches;
  switch (t.schedule) {
    case PipelineSchedule::forward: return (m * t.shape.chunks + p - 1) * kForward;
    case PipelineSchedule::zb_h1:  // in its table for m >= p: (p - 1) (F + B - W)
      return m * kBoth + (p - 1) * (kForward + kInputs) - std::min(p - 1, m - 1) * kWeights;
    default: return (m * t.shape.chunks + p - 1) * kBoth;
  }
}

// Chunks times micro-batches.
int published_activations(const Tested& t, int stage) {
  const int p = t.shape.stages, m = t.shape.micro_batches;
  switch (t.schedule) {
    case PipelineSchedule::forward: return 0;
    case PipelineSchedule::gpipe: return m;
    case PipelineSchedule::zb_h1: return std::min(m, p);
    case PipelineSchedule::one_f_one_b: return std::min(m, p - stage);
    case PipelineSchedule::interleaved: break;
  }
  if (t.shape.chunks == 1) return std::min(m, p - stage);
  return std::min(m * t.shape.chunks, 2 * (p - stage - 1) + (t.shape.chunks - 1) * p + 1);
}

TEST(PipelineSchedules, TakeTheTimeAndTheMemoryThatWerePublished) {
  for (const Tested& t : all_shapes()) {
    SCOPED_TRACE(describe(t));
    const auto forecast = forecast_pipeline(make_pipeline(t.schedule, t.shape), costs(t.shape), Mode::queues);
    ASSERT_TRUE(forecast.ok()) << forecast.status().message();
    const int p = t.shape.stages, m = t.shape.micro_batches;
    const bool fills_rounds = t.shape.chunks == 1 || m % p == 0;
    if (fills_rounds) {
      ASSERT_EQ(forecast->seconds, published(t, m));
    } else {
      ASSERT_LE(forecast->seconds, published(t, (m + p - 1) / p * p));
    }
    for (int s = 0; s < p; ++s) {
      const auto& stage = forecast->stages[static_cast<std::size_t>(s)];
      // What has arrived and waits for its turn; where all forwards go first, the gradients of the last of them.
      if (t.schedule != PipelineSchedule::gpipe) {
        ASSERT_LE(stage.received, t.shape.chunks == 1 ? 2 : p + 1);
      }
      ASSERT_EQ(stage.busy, m * t.shape.chunks * (t.schedule == PipelineSchedule::forward ? kForward : kBoth));
      if (fills_rounds) {
        ASSERT_EQ(stage.live_activations, published_activations(t, s)) << s;
      } else {
        ASSERT_LE(stage.live_activations, published_activations({t.schedule, {p, (m + p - 1) / p * p, t.shape.chunks}}, s))
            << s;
      }
    }
  }
}

TEST(PipelineSchedules, ZeroBubblesAreShorterThanTheirParents) {
  const PipelineShape shape{8, 32, 1};
  const auto seconds = [&](PipelineSchedule schedule, const PipelineShape& of) {
    return forecast_pipeline(make_pipeline(schedule, of), costs(of), Mode::queues)->seconds;
  };
  const double ideal = 32 * kBoth, parent = seconds(PipelineSchedule::one_f_one_b, shape);
  EXPECT_EQ(parent - ideal, 7 * kBoth);
  EXPECT_EQ(seconds(PipelineSchedule::zb_h1, shape) - ideal, 7 * (kForward + kInputs - kWeights));
  EXPECT_EQ((seconds(PipelineSchedule::interleaved, {8, 32, 4}) - 4 * ideal) / 4, 7 * kBoth / 4);
}

TEST(PipelineForecast, NamesWhatCannotGoOn) {
  PipelineProgram program = make_pipeline(PipelineSchedule::one_f_one_b, {2, 2, 1});
  auto& last = program.stages[1];
  std::rotate(last.begin(), last.begin() + 1, last.end());  // its first activations come last
  for (const Mode mode : {Mode::blocking, Mode::queues}) {
    const auto forecast = forecast_pipeline(program, {}, mode);
    ASSERT_FALSE(forecast.ok());
    EXPECT_EQ(forecast.status().code(), Code::internal);
    EXPECT_THAT(forecast.status().message(), HasSubstr("pipeline stage 0 cannot go on at instruction"));
  }
}

TEST(PipelineForecast, ALinkThatIsSlowHoldsUpTheStepOnce) {
  // Computes go on while transfers pass: a link that is as slow as a forward costs its latency on the way down and up, no more.
  const PipelineShape shape{4, 16, 1};
  const PipelineProgram program = make_pipeline(PipelineSchedule::gpipe, shape);
  const double without = forecast_pipeline(program, costs(shape), Mode::queues)->seconds;
  const double with = forecast_pipeline(program, costs(shape, 1.0), Mode::queues)->seconds;
  EXPECT_EQ(with - without, 2 * 3 * 1.0);
  EXPECT_GT(forecast_pipeline(program, costs(shape, 1.0), Mode::blocking)->seconds, with);
}

TEST(PipelineForecast, TheSlowestPartSetsThePace) {
  const PipelineShape shape{3, 8, 1};
  PipelineCosts uneven = costs(shape);
  uneven.parts[1] = {2 * kForward, 2 * kInputs, 2 * kWeights};
  const auto forecast = forecast_pipeline(make_pipeline(PipelineSchedule::one_f_one_b, shape), uneven, Mode::queues);
  ASSERT_TRUE(forecast.ok());
  // Its own time, the first forward below it, the last backward below it, and once what stage 2 takes longer than its second
  // forward.
  EXPECT_EQ(forecast->seconds, 8 * 2 * kBoth + kForward + (kInputs + kWeights) + (kBoth - 2 * kForward));
  EXPECT_EQ(forecast->stages[1].busy, 2 * forecast->stages[0].busy);
}

TEST(PipelineSchedules, RefuseWhatTheyCannotDo) {
  EXPECT_EQ(check_pipeline(PipelineSchedule::zb_h1, {4, 8, 2}).code(), Code::invalid_config);
  EXPECT_THAT(check_pipeline(PipelineSchedule::one_f_one_b, {4, 8, 2}).message(),
              HasSubstr("1f1b has one chunk a stage, not 2"));
  EXPECT_THAT(check_pipeline(PipelineSchedule::gpipe, {4, 0, 1}).message(), HasSubstr("0 micro-batches"));
  EXPECT_TRUE(check_pipeline(PipelineSchedule::interleaved, {4, 3, 2}).ok());
}

}  // namespace
}  // namespace strata
