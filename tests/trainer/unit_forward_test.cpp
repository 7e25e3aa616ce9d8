// The forward that is timed is the one of training: the last unit's, with the input that the units before it give. Mutations
// that must fail: take the first unit; invent the input's shape; keep nothing for a backward; do not let go of what prepare()
// made.
#include "trainer/unit_forward.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

// Doubles the columns of its input, or makes the first ones, and remembers how it was called.
class Doubling final : public BodyUnit {
 public:
  std::string name() const override { return "doubling"; }
  std::vector<ParamSpec> params() const override { return {{"scale", Shape{3}, Init::constant(2.0f)}}; }
  void prepare(StreamRef, TierArena& arena, std::int64_t T) override {
    kept = Tensor(arena, Category::other, DType::f32, Shape{T}, "kept");
  }
  Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) override {
    if (ctx.stream.backend() != Backend::dry) {
      ++forwards;
      input = x.shape();
      scale = ctx.params.at(0).as<float>()[2];
      tokens = ctx.batch.tokens_R.numel();
      keeps = saved != nullptr;
    }
    return ctx.activation(Shape{ctx.batch.B * ctx.batch.T, x ? 2 * x.shape()[1] : 5}, "doubled");
  }
  Tensor backward(const UnitContext&, const Tensor&, Tensor, Saved) override { return {}; }

  Tensor kept;
  int forwards = 0;
  Shape input;
  float scale = 0.0f;
  std::int64_t tokens = 0;
  bool keeps = false;
};

class NoLoss final : public LossUnit {
 public:
  std::string name() const override { return "head"; }
  std::vector<ParamSpec> params() const override { return {}; }
  void loss(const UnitContext&, const Tensor&, TensorRef) override {}
  Tensor loss_and_backward(const UnitContext&, const Tensor&, TensorRef, float) override { return {}; }
  Tensor logits(const UnitContext&, TensorRef) override { return {}; }
};

class UnitForwardOf : public ::testing::TestWithParam<int> {
 protected:
  UnitForwardOf() {
    options_.micro_batch = 2;
    options_.seq_length = 7;
    std::vector<std::unique_ptr<BodyUnit>> body;
    for (int i = 0; i < GetParam(); ++i) {
      auto unit = std::make_unique<Doubling>();
      units_.push_back(unit.get());
      body.push_back(std::move(unit));
    }
    model_ = std::make_unique<Model>(std::move(body), std::make_unique<NoLoss>(), 11, 64);
  }
  std::vector<Doubling*> units_;
  std::unique_ptr<Model> model_;
  EngineOptions options_;
  Device device_{Backend::host, 1};
};

TEST_P(UnitForwardOf, RunsTheLastUnitOnWhatTheOthersGive) {
  const TierBytes bytes = Workbench::rehearse(device_, [&](Workbench& dry) { UnitForward(dry, *model_, options_).enqueue(); });
  Workbench bench(device_, bytes);
  {
    UnitForward forward(bench, *model_, options_);
    EXPECT_TRUE(units_.back()->kept.is_from(bench.arena(Tier::gpu)));
    forward.enqueue();
    forward.enqueue();
  }
  const Doubling& last = *units_.back();
  EXPECT_EQ(last.forwards, 2);
  EXPECT_EQ(last.input, units_.size() == 1 ? Shape{} : (Shape{14, 5 << (units_.size() - 2)}));
  EXPECT_EQ(last.scale, 2.0f);
  EXPECT_EQ(last.tokens, 14);
  EXPECT_TRUE(last.keeps);
  EXPECT_FALSE(last.kept.is_from(bench.arena(Tier::gpu))) << "the bench's memory could not be given back";
  EXPECT_EQ(bench.arena(Tier::gpu).report().in_use, 0u);
  for (std::size_t u = 0; u + 1 < units_.size(); ++u) EXPECT_EQ(units_[u]->forwards, 0);
}

TEST_P(UnitForwardOf, KeepsNothingWhereABackwardRunsItAgain) {
  EngineOptions options = options_;
  options.activations.recompute = true;
  Workbench bench(device_, {.gpu = std::size_t{1} << 20, .cpu = std::size_t{8} << 20});
  UnitForward(bench, *model_, options).enqueue();
  EXPECT_EQ(units_.back()->forwards, 1);
  EXPECT_FALSE(units_.back()->keeps);
}

INSTANTIATE_TEST_SUITE_P(Units, UnitForwardOf, ::testing::Values(1, 2, 4));

}  // namespace
}  // namespace strata
