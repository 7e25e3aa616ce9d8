// Every body of FRUGAL's updates gives the bits of the written sequence, whatever the choice, length, alignment and cutting.
// Mutations caught: states spread or collected one lane off, a mask of states one too long or short, states of the next row
// read at a row's end, states read in the first step of a period, decay by the scaled learning rate, the sign of zero as 1, a
// rule for all elements, p of elements without states left out of p16, a step counted from the run's beginning after a reset.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "frugal_testing.h"
#include "runtime/kernels/isa.h"

namespace strata {
namespace {

using namespace frugal_testing;  // NOLINT

struct Shape {
  std::int64_t rows, columns;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 5}, {9, 8}, {33, 17}, {5, 64}, {2, 100}, {40, 3}};

// Runs each test with every method and every instruction set of this machine.
class FrugalBits : public ::testing::TestWithParam<std::tuple<Method, kernels::Isa>> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(std::get<1>(GetParam())).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }
  static const FrugalConfig& config() { return std::get<0>(GetParam()).config; }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

// A range of each matrix at its beginning, in its middle and up to its end.
TEST_P(FrugalBits, EqualTheWrittenSequenceForAnyChoiceValueRangeAndAlignment) {
  std::uint64_t seed = 0;
  for (const StatefulKind kind : kKinds) {
    for (const auto& [rows, columns] : kShapes) {
      const Matrix matrix = Matrix::random(kind, rows, columns, 0.4, ++seed);
      for (const auto& [first, end] : {std::pair<std::int64_t, std::int64_t>{0, matrix.size()},
                                       {matrix.size() / 3, matrix.size() - matrix.size() / 4},
                                       {matrix.size() / 5, matrix.size()},
                                       {matrix.size() / 2, matrix.size() / 2}}) {
        for (const std::size_t offset : {0, 1, 3, 8, 13}) {
          for (const StateFreeRule rule : kStateFreeRules) {
            FrugalConfig changed = config();
            changed.state_free = rule;
            changed.inactive_lr_scale = 0.3;
            changed.proj_params_lr_scale = 0.7;
            changed.reset_statistics = offset % 2 == 0;
            const UpdateStep step{.number = offset == 8 ? 201 : 207, .lr = 3e-4, .grad_scale = 0.37};
            const bool with16 = offset != 1, gradient16 = offset == 3 || offset == 8;
            const std::int64_t n = end - first, states = matrix.before(end) - matrix.before(first);
            Arrays want(n, states, 0), got(n, states, offset);
            want.fill(seed + offset);
            got.fill(seed + offset);
            reference(changed, matrix, first, want.slice(with16, gradient16), step, kDecays);
            Frugal(changed).update(stateful_slice(matrix.set, got.slice(with16, gradient16), first), step, kDecays);
            ASSERT_TRUE(same(want, got)) << static_cast<int>(kind) << ": " << rows << " x " << columns << " from " << first
                                         << " to " << end << ", offset " << offset << ", rule " << static_cast<int>(rule);
            ASSERT_TRUE(got.guards_intact()) << "wrote outside";
          }
        }
      }
    }
  }
}

TEST_P(FrugalBits, DoNotDependOnCuttingOrThreads) {
  const Frugal frugal(config());
  for (const StatefulKind kind : kKinds) {
    const Matrix matrix = Matrix::random(kind, 301, 233, 0.25, 3);  // more than one block of 65536
    Arrays whole(matrix.size(), matrix.states(), 0);
    whole.fill(1);
    frugal.update(stateful_slice(matrix.set, whole.slice(), 0), kStep, kDecays);
    for (const std::int64_t cut : {1, 7, 16, 31, 33, 233, 1000, 65537}) {
      Arrays pieces(matrix.size(), matrix.states(), 1);
      pieces.fill(1);
      for (std::int64_t i = 0; i < matrix.size(); i += cut) {
        const std::int64_t n = std::min(cut, matrix.size() - i);
        const UpdateSlice range = pieces.slice(i, n, states_before(matrix.set.map(), i), true, false);
        frugal.update(stateful_slice(matrix.set, range, i), kStep, kDecays);
      }
      ASSERT_TRUE(same(whole, pieces)) << "kind " << static_cast<int>(kind) << ", cut " << cut;
    }
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      Arrays shared(matrix.size(), matrix.states(), 3);
      shared.fill(1);
      update(frugal, stateful_slice(matrix.set, shared.slice(), 0), kStep, kDecays, pool);
      ASSERT_TRUE(same(whole, shared)) << "kind " << static_cast<int>(kind) << ", " << threads << " threads";
    }
  }
}

TEST_P(FrugalBits, ResultsMayGoElsewhere) {
  const Frugal frugal(config());
  const bool two = frugal.states().size() == 2;
  for (const StatefulKind kind : kKinds) {
    const Matrix matrix = Matrix::random(kind, 301, 233, 0.25, 4);
    Arrays want(matrix.size(), matrix.states(), 0), from(matrix.size(), matrix.states(), 1),
        to(matrix.size(), matrix.states(), 3);
    for (Arrays* arrays : {&want, &from, &to}) arrays->fill(1);  // `to` keeps what the method does not have
    frugal.update(stateful_slice(matrix.set, want.slice(), 0), kStep, kDecays);
    UpdateSlice range = from.slice();
    range.p16 = to.p16.data();
    range.new_p = to.p.data();
    range.new_states[0] = to.first.data();
    if (two) range.new_states[1] = to.second.data();
    ThreadPool pool(2);
    update(frugal, stateful_slice(matrix.set, range, 0), kStep, kDecays, pool);
    ASSERT_TRUE(same(want, to)) << static_cast<int>(kind);
    Arrays kept(matrix.size(), matrix.states(), 0);
    kept.fill(1);
    ASSERT_TRUE(same(kept, from)) << static_cast<int>(kind);
    ASSERT_TRUE(to.guards_intact() && from.guards_intact());
  }
}

// In the first step of a period what is stored may be anything, NaN too; the memory need not be cleared.
TEST_P(FrugalBits, TheFirstStepOfAPeriodIgnoresTheStates) {
  const Matrix matrix = Matrix::random(StatefulKind::columns, 20, 50, 0.3, 5);
  for (const std::int64_t number : {1, 201, 401}) {
    Arrays zeros(matrix.size(), matrix.states(), 0), any(matrix.size(), matrix.states(), 0);
    zeros.fill(1);
    any.fill(1);
    std::fill_n(zeros.first.data(), zeros.states_, 0.0f);
    std::fill_n(zeros.second.data(), zeros.states_, 0.0f);
    std::fill_n(any.first.data(), any.states_, std::numeric_limits<float>::quiet_NaN());
    if (Frugal(config()).states().size() == 2) {
      std::fill_n(any.second.data(), any.states_, std::numeric_limits<float>::quiet_NaN());
    } else {
      std::fill_n(any.second.data(), any.states_, 0.0f);
    }
    const UpdateStep step{.number = number, .lr = 1e-3};
    Frugal(config()).update(stateful_slice(matrix.set, zeros.slice(), 0), step, kDecays);
    Frugal(config()).update(stateful_slice(matrix.set, any.slice(), 0), step, kDecays);
    ASSERT_TRUE(same(zeros, any)) << "step " << number;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, FrugalBits,
                         ::testing::Combine(::testing::ValuesIn(methods()), ::testing::ValuesIn(kernels::available_isas())),
                         [](const auto& tested) {
                           return std::string(std::get<0>(tested.param).name) + "_" +
                                  kernels::to_string(std::get<1>(tested.param));
                         });

// Density 1 is the optimizer itself.
TEST(FrugalTest, OfAllElementsIsAdamW) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    const kernels::Isa before = kernels::active_isa();
    ASSERT_TRUE(kernels::set_isa(isa).ok());
    const FrugalConfig config{.density = 1.0};
    const StatefulSet all = StatefulSet::all(33, 17);
    const StatefulSet columns = frugal_set(config, 33, 17, {.seed = 1, .name = "w"});
    for (const StatefulSet* set : {&all, &columns}) {
      Arrays want(33 * 17, 33 * 17, 0), got(33 * 17, 33 * 17, 1);
      want.fill(1);
      got.fill(1);
      AdamW().update(want.slice(), {.number = 77, .lr = 1e-3, .grad_scale = 0.5}, kDecays);
      Frugal(config).update(stateful_slice(*set, got.slice(), 0), {.number = 77, .lr = 1e-3, .grad_scale = 0.5}, kDecays);
      ASSERT_TRUE(same(want, got)) << kernels::to_string(isa);
    }
    ASSERT_TRUE(kernels::set_isa(before).ok());
  }
}

TEST(FrugalTest, OfNoElementsIsTheSignOfTheGradient) {
  const FrugalConfig config{.density = 0.0, .inactive_lr_scale = 0.5};
  const StatefulSet set = frugal_set(config, 1, 5, {.seed = 1, .name = "w"});
  EXPECT_EQ(set.states(), 0);
  std::vector<float> p(5, 1.0f);
  const std::vector<float> g = {3.0f, -1e-30f, 0.0f, -0.0f, -7.0f};
  const UpdateSlice range{.p = p.data(), .g = g.data(), .n = 5};
  Frugal(config).update(stateful_slice(set, range, 0), {.number = 9, .lr = 0.25}, {.projected = true});
  EXPECT_EQ(p, (std::vector<float>{0.875f, 1.125f, 1.0f, 1.0f, 1.125f}));
}

// Weight decay is by the plain learning rate, the steps by the scaled ones.
TEST(FrugalTest, LearningRatesAreScaledAndTheDecayIsNot) {
  const FrugalConfig config{.inactive_lr_scale = 0.5, .proj_params_lr_scale = 0.25, .stateful = FrugalMomentumConfig{0.5}};
  const std::int64_t chosen[] = {1};
  const StatefulSet set = StatefulSet::of(StatefulKind::columns, 1, 2, chosen);
  std::vector<float> p = {8.0f, 8.0f};
  const std::vector<float> g = {4.0f, 4.0f};
  float momentum = 2.0f;
  const UpdateSlice range{.p = p.data(), .states = {&momentum}, .g = g.data(), .n = 2};
  Frugal(config).update(stateful_slice(set, range, 0), {.number = 2, .lr = 0.5}, {.weight_decay = 0.5, .projected = true});
  EXPECT_EQ(p[0], 8.0f * 0.75f - 0.0625f);
  EXPECT_EQ(p[1], 8.0f * 0.75f - 0.125f * 5.0f);
  EXPECT_EQ(momentum, 5.0f);
}

TEST(FrugalTest, CountsAreCutOff) {
  using enum FrugalChoice;
  EXPECT_EQ(frugal_count(columns, 24, 17, 0.33), 5);    // 5.61
  EXPECT_EQ(frugal_count(rows, 33, 17, 0.29), 9);       // 9.57
  EXPECT_EQ(frugal_count(entries, 33, 17, 0.25), 140);  // 140.25
  EXPECT_EQ(frugal_count(columns, 8, 3, 0.67), 2);      // 2.01
  EXPECT_EQ(frugal_count(columns, 8, 3, 0.5), 1);       // 1.5
  EXPECT_EQ(frugal_count(rows, 8, 3, 0.0), 0);
  EXPECT_EQ(frugal_count(entries, 8, 3, 1.0), 24);
  EXPECT_THROW((void)frugal_count(columns, 8, 3, 1.1), ContractViolation);
}

TEST(FrugalTest, PeriodsBeginAtTheFirstStepAndEveryGap) {
  FrugalConfig config{.update_gap = 3};
  const auto period = [&](std::int64_t step) { return frugal_period(config, step); };
  EXPECT_EQ(period(1), (FrugalPeriod{0, 1, true, true}));
  EXPECT_EQ(period(3), (FrugalPeriod{0, 3, false, false}));
  EXPECT_EQ(period(4), (FrugalPeriod{1, 1, true, true}));
  EXPECT_EQ(period(8), (FrugalPeriod{2, 2, false, false}));
  config.reset_statistics = false;
  EXPECT_EQ(period(1), (FrugalPeriod{0, 1, true, true}));
  EXPECT_EQ(period(4), (FrugalPeriod{1, 4, true, false}));
  EXPECT_EQ(period(8), (FrugalPeriod{2, 8, false, false}));
  config.choice = FrugalChoice::tensors;  // whose states always go
  EXPECT_EQ(period(4), (FrugalPeriod{1, 1, true, true}));
  config.update_gap = 1;
  EXPECT_EQ(period(4), (FrugalPeriod{3, 1, true, true}));
  EXPECT_THROW((void)period(0), ContractViolation);
}

TEST(FrugalTest, RefusesWhatItCannotBe) {
  EXPECT_THROW(Frugal({.density = 1.5}), ContractViolation);
  EXPECT_THROW(Frugal({.update_gap = 0}), ContractViolation);
  EXPECT_THROW((void)stateful_slice(StatefulSet::all(2, 3), {.n = 4}, 3), ContractViolation);
  EXPECT_THROW((void)frugal_set({.choice = FrugalChoice::tensors}, 2, 3, {}), ContractViolation);
}

}  // namespace
}  // namespace strata
