// FRUGAL's split by a projection: every body gives the bits of the formulas in frugal_subspace.h, whatever the shape and the
// cutting; and the authors' runs (tests/oracle/make_frugal_vectors.py) with their projections. Mutations caught: the residual
// of the unscaled gradient; decay after the step; directions of R where R comes back; states that are read where they are zero;
// the bias correction not begun anew; the rest's rate without proj_params_lr_scale; the sign of a zero; counts cut off.
#include "optim/frugal_subspace.h"

#include <gtest/gtest.h>

#include "low_rank_testing.h"
#include "optim/orthonormal_projections.h"
#include "optim/row_method.h"
#include "runtime/kernels/isa.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using namespace low_rank_testing;  // NOLINT
using update_testing::kDecays;

FrugalConfig config_of(int variant) {
  FrugalConfig config{.choice = FrugalChoice::singular_vectors,
                      .update_gap = 3,
                      .reset_statistics = variant != 1,
                      .inactive_lr_scale = 0.5,
                      .proj_params_lr_scale = 0.3};
  if (variant == 1) config.state_free = StateFreeRule::sgd, config.stateful = LionConfig();
  if (variant == 2) config.state_free = StateFreeRule::none, config.stateful = FrugalMomentumConfig();
  return config;
}

float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

void reference(const FrugalConfig& config, const LowRankBlock& b, const WeightRows& weights, const UpdateStep& step,
               const ParamGroup& group) {
  const SubspaceScalars c = subspace_scalars(config, step, group);
  const DirectionScalars& d = c.direction;
  for (std::int64_t i = 0; i < b.rows; ++i) {
    std::vector<float> g, r, n;
    for (std::int64_t j = 0; j < b.columns; ++j) {
      const std::int64_t at = i * b.columns + j;
      g.push_back((b.g16 != nullptr ? to_float(b.g16[at]) : b.g[at]) * c.rest.grad_scale);
    }
    for (std::int64_t k = 0; k < b.rank; ++k) {
      float sum = 0.0f;
      for (std::int64_t j = 0; j < b.columns; ++j)
        sum = std::fma(g[static_cast<std::size_t>(j)], b.projection[j * b.rank + k], sum);
      const std::int64_t at = i * b.rank + k;
      float m = d.states_are_zero ? 0.0f : b.m[at], direction = 0.0f;
      if (d.kind == DirectionKind::adamw) {
        float v = d.states_are_zero ? 0.0f : b.v[at];
        m = canonical(std::fma(d.one_minus_beta1, sum - m, m));
        v = canonical(std::fma(d.one_minus_beta2 * sum, sum, d.beta2 * v));
        direction = canonical(m / std::fma(std::sqrt(v), d.inv_sqrt_bias2, d.eps));
        (b.new_v != nullptr ? b.new_v : b.v)[at] = v;
      } else if (d.kind == DirectionKind::lion) {
        direction = canonical(sign(std::fma(d.one_minus_beta1, sum, d.beta1 * m)));
        m = canonical(std::fma(d.one_minus_beta2, sum, d.beta2 * m));
      } else {
        m = direction = canonical(std::fma(d.beta1, m, sum));
      }
      (b.new_m != nullptr ? b.new_m : b.m)[at] = m;
      r.push_back(sum);
      n.push_back(direction);
    }
    for (std::int64_t j = 0; j < b.columns; ++j) {
      float back = 0.0f, seen = 0.0f;
      for (std::int64_t k = 0; k < b.rank; ++k) {
        back = std::fma(n[static_cast<std::size_t>(k)], b.projection[j * b.rank + k], back);
        seen = std::fma(r[static_cast<std::size_t>(k)], b.projection[j * b.rank + k], seen);
      }
      const float rest = g[static_cast<std::size_t>(j)] - seen;
      const float moved = std::fma(-c.step_size, back, weights.p[i * b.columns + j] * c.rest.decay_factor);
      const float f = c.rest.rule == StateFreeRule::sgd ? rest : sign(rest);
      put_weight(weights, i * b.columns + j, c.rest.rule == StateFreeRule::none ? moved : std::fma(-c.rest.lr, f, moved));
    }
  }
}

struct Size {
  std::int64_t rows, columns, rank;
};
constexpr Size kSizes[] = {{1, 1, 1}, {7, 3, 2}, {97, 129, 31}, {5, 130, 65}, {20, 64, 64}, {193, 48, 17}};

class FrugalSubspaceBits : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

// Step 4 begins a period: the states are zero where they are reset.
constexpr std::int64_t kNumbers[] = {4, 5};

TEST_P(FrugalSubspaceBits, AreTheWrittenSequenceForAnyShapeAndCut) {
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const int variant : {0, 1, 2}) {
      for (const std::int64_t number : kNumbers) {
        SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", variant " << variant
                                          << ", step " << number);
        const bool half = variant == 1, elsewhere = number == 5;
        const UpdateStep step{.number = number, .lr = 1e-2, .grad_scale = 0.7};
        Arrays want(rows, columns, rank);
        want.fill(static_cast<std::uint64_t>(rank), variant != 2);
        reference(config_of(variant), want.block(0, rows, half, elsewhere), want.weights(0, half, elsewhere), step, kDecays);
        for (const std::int64_t cut : {std::int64_t{1000}, std::int64_t{5}}) {
          Arrays got(rows, columns, rank, 3);
          got.fill(static_cast<std::uint64_t>(rank), variant != 2);
          std::vector<float> workspace(static_cast<std::size_t>(low_rank_workspace(rank)), std::nanf(""));
          for (std::int64_t i = 0; i < rows; i += cut)
            subspace_update(config_of(variant), got.block(i, std::min(cut, rows - i), half, elsewhere),
                            got.weights(i, half, elsewhere), step, kDecays, workspace);
          ASSERT_TRUE(same(got, want)) << "cut " << cut;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, FrugalSubspaceBits, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& tested) { return std::string(kernels::to_string(tested.param)); });

TEST(FrugalSubspaceGpuBits, AreTheWrittenSequence) {
  if (testing::kRacesOnly) GTEST_SKIP() << "one thread has no races";
  const std::unique_ptr<GpuDriver> driver = testing::gpu_machines()[0].make_driver();
  const std::unique_ptr<GpuQueue> queue = driver->make_queue("update").value();
  std::pmr::vector<std::byte> scratch(std::size_t{1} << 18, &testing::shared_memory());
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const int variant : {0, 1, 2}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", variant " << variant);
      const bool half = variant == 1;
      const UpdateStep step{.number = kNumbers[variant % 2], .lr = 1e-2, .grad_scale = 0.7};
      Arrays want(rows, columns, rank), got(rows, columns, rank, 3);
      for (Arrays* a : {&want, &got}) a->fill(static_cast<std::uint64_t>(rank), variant != 2);
      reference(config_of(variant), want.block(0, rows, half, !half), want.weights(0, half, !half), step, kDecays);
      // Of R and the directions: room for all rows, or for a few.
      queue->set_scratch({scratch.data(), static_cast<std::size_t>((half ? 9 : 200) * 2 * rank) * sizeof(float)});
      enqueue_subspace_update(config_of(variant), got.block(0, rows, half, !half), got.weights(0, half, !half), step, kDecays,
                              *driver, *queue);
      const Status status = queue->mark()->wait();
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(same(got, want));
    }
  }
}

TEST(FrugalSubspace, RatesAndRanksAreTheAuthors) {
  FrugalConfig config{.choice = FrugalChoice::singular_vectors,
                      .update_gap = 3,
                      .inactive_lr_scale = 0.5,
                      .proj_params_lr_scale = 0.25,
                      .stateful = LionConfig()};
  const SubspaceScalars scalars = subspace_scalars(config, {.number = 5, .lr = 0.5}, {.lr_scale = 2.0, .weight_decay = 0.125});
  EXPECT_EQ(scalars.step_size, 0.25f);
  EXPECT_EQ(scalars.rest.lr, 0.125f);
  EXPECT_EQ(scalars.rest.decay_factor, 0.875f);  // of the rate that is not scaled
  EXPECT_EQ(subspace_rank(6, 0.25), 2);          // 1.5: halves go to the even number
  EXPECT_EQ(subspace_rank(10, 0.25), 2);
  EXPECT_EQ(subspace_rank(11, 0.25), 3);
  EXPECT_EQ(subspace_rank(10, 0.01), 1);
}

TEST(FrugalSubspace, AWeightThatNothingMovesKeepsItsSign) {
  const FrugalConfig config{
      .choice = FrugalChoice::singular_vectors, .state_free = StateFreeRule::none, .stateful = FrugalMomentumConfig()};
  const std::vector<float> g(8, 0.0f), projection = {0.5f, -0.5f, 0.5f, -0.5f};
  std::vector<float> p(8, -0.0f), m(2, 0.0f), workspace(static_cast<std::size_t>(low_rank_workspace(1)));
  const LowRankBlock block{.rows = 2, .columns = 4, .rank = 1, .g = g.data(), .projection = projection.data(), .m = m.data()};
  subspace_update(config, block, {.p = p.data()}, {.number = 2, .lr = 0.1}, {}, workspace);
  for (const float x : p) EXPECT_TRUE(std::signbit(x));
}

TEST(FrugalSubspace, TheAuthorsProjectionsGiveTheirWeights) {
  const vector_file::File file("frugal.bin");
  int cases = 0;
  for (const std::string& which : file.cases("project")) {
    SCOPED_TRACE(which);
    const std::string side = file.text(which + "/h/proj_side");
    if (side != "std" && side != "reverse_std") continue;  // from both sides: not done here
    const auto number = [&](const std::string& name) { return file.number(which + "/h/" + name); };
    const std::string rule = file.text(which + "/h/rule");
    const FrugalConfig config{
        .choice = FrugalChoice::singular_vectors,
        .density = number("density"),
        .update_gap = static_cast<std::int64_t>(number("gap")),
        .reset_statistics = number("reset") != 0.0,
        .state_free = rule == "no"    ? StateFreeRule::none
                      : rule == "sgd" ? StateFreeRule::sgd
                                      : StateFreeRule::sign_sgd,
        .inactive_lr_scale = number("inactive_lr_scale"),
        .proj_params_lr_scale = number("proj_params_lr_scale"),
        .stateful = AdamWConfig{.beta1 = number("beta1"), .beta2 = number("beta2"), .eps = number("eps")}};
    const Layout layout = layout_of(file, which, side == "reverse_std");
    std::vector<float> p = layout.weights(file.floats(which + "/w0")), projection, m, v, workspace;
    std::int64_t t = 0, rank = 0;
    for (const double lr : file.learning_rates(which)) {
      const std::string step = which + "/step" + std::to_string(++t);
      ASSERT_EQ(file.has(step + "/p"), frugal_period(config, t).begins);
      if (file.has(step + "/p")) {
        rank = file[step + "/p"].dims[layout.left ? 1 : 0];
        EXPECT_EQ(rank, subspace_rank(layout.columns(), config.density));
        projection = layout.projection(file.floats(step + "/p"), rank);
        m.resize(static_cast<std::size_t>(layout.rows() * rank));
        v.resize(m.size());
        workspace.resize(static_cast<std::size_t>(low_rank_workspace(rank)));
      }
      const std::vector<float> g = layout.weights(file.gradient(which, t));
      const LowRankBlock block{.rows = layout.rows(),
                               .columns = layout.columns(),
                               .rank = rank,
                               .g = g.data(),
                               .projection = projection.data(),
                               .m = m.data(),
                               .v = v.data()};
      subspace_update(config, block, {.p = p.data()}, {.number = t, .lr = lr}, {.weight_decay = number("weight_decay")},
                      workspace);
      // Where only rounding is left of the gradient, its sign is anybody's.
      const std::vector<float> wanted = layout.weights(file.floats(step + "/w"));
      std::size_t apart = 0;
      const double rest = lr * config.proj_params_lr_scale * config.inactive_lr_scale;
      for (std::size_t i = 0; i < p.size(); ++i) {
        const double difference = std::abs(static_cast<double>(p[i]) - static_cast<double>(wanted[i]));
        if (difference <= 1e-5 * std::abs(static_cast<double>(wanted[i])) + 3e-7) continue;
        ++apart;
        ASSERT_EQ(config.state_free, StateFreeRule::sign_sgd) << step << ", element " << i;
        ASSERT_LE(difference, 2.001 * rest + 1e-6) << step << ", element " << i;
      }
      EXPECT_LE(apart, p.size() / 100) << step;
      p = wanted;  // what is apart would stay so
    }
    ++cases;
  }
  EXPECT_EQ(cases, 6);
}

TEST(OrthonormalProjections, HaveOrthonormalColumnsAndAreAFunctionOfNameAndNumber) {
  const OrthonormalProjections projections(7);
  const ProjectedMatrix matrix{.name = "w", .columns = 40, .rank = 12};
  std::vector<float> first(480), again(480), next(480);
  projections.fill(matrix, 0, first);
  projections.fill(matrix, 0, again);
  projections.fill(matrix, 1, next);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, next);
  for (std::size_t a = 0; a < 12; ++a)
    for (std::size_t b = 0; b < 12; ++b) {
      double product = 0.0;
      for (std::size_t j = 0; j < 40; ++j)
        product += static_cast<double>(first[j * 12 + a]) * static_cast<double>(first[j * 12 + b]);
      EXPECT_NEAR(product, a == b ? 1.0 : 0.0, 1e-6);
    }
}

}  // namespace
}  // namespace strata
