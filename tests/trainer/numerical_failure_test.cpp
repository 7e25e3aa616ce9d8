// A value that is not finite stops training before the update and is named.
#include <gtest/gtest.h>

#include <limits>

#include "tests/trainer/fixture.h"

namespace strata {
namespace {

TEST(NumericalFailure, AnExplodingRunNamesStepAndTensor) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.optimizer.lr = 1e30;
  c.scheduler.type = ScheduleKind::constant;
  c.scheduler.warmup_steps = 0;
  const RunResult run = run_training(c, 2, std::make_shared<FormulaSource>(61));
  ASSERT_EQ(run.status.code(), Code::numerical) << run.status.message();
  EXPECT_NE(run.status.message().find("step "), std::string::npos) << run.status.message();
  EXPECT_NE(run.status.message().find("first offending tensor: "), std::string::npos) << run.status.message();
  EXPECT_EQ(run.status.message().find("no single tensor"), std::string::npos) << run.status.message();
}

TEST(NumericalFailure, AnUpdateThatBeganBeforeTheNormIsTakenBack) {
  const auto message = [](double speculation) {
    const TemporaryFolder folder;
    Config c = small_config(folder.path());
    c.optimizer.lr = 1e30;
    c.scheduler.type = ScheduleKind::constant;
    c.scheduler.warmup_steps = 0;
    c.precision.compute = DType::bf16;
    c.offload.optimizer.speculation = speculation;
    c.offload.optimizer.speculate = Config::Offload::Optimizer::When::always;
    return run_training(c, 2, std::make_shared<FormulaSource>(61)).status.message();
  };
  const std::string waits = message(0.0);
  EXPECT_NE(waits.find("first offending tensor: "), std::string::npos) << waits;
  EXPECT_EQ(message(1.0), waits);
}

TEST(NumericalFailure, ABadParameterIsNamedWithItsIndex) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  const auto comm = make_single_rank_communicator();
  const auto environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = std::make_shared<FormulaSource>(61);
  auto trainer = Trainer::create(c, *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  const Status filled = (*trainer)->engine().optimizer().fill([](const OptimizerRecord& record, RecordState state) {
    for (float* values : {state.p, state.m, state.v}) std::fill(values, values + record.range.count, 0.0f);
    if (record.unit == 2) state.p[39] = std::numeric_limits<float>::quiet_NaN();  // the last of layers.1's first norm
    return Status();
  });
  ASSERT_TRUE(filled.ok()) << filled.message();
  const auto step = (*trainer)->step();
  ASSERT_FALSE(step.ok());
  EXPECT_NE(step.status().message().find("parameter layers.1."), std::string::npos) << step.status().message();
}

}  // namespace
}  // namespace strata
