// The element-wise optimizers against torch.optim, lion-pytorch and the AdamW of GaLore's authors
// (tests/oracle/make_simple_vectors.py), of APOLLO's (make_apollo_vectors.py), and DeepSpeed's on a CPU
// (make_deepspeed_vectors.py). Mutations caught: TransformersAdamW with eps beside the corrected root, with decay of the old
// weights, with the bias correction of step - 1, with a step number that counts steps without a gradient.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "optim/adamw.h"
#include "optim/adamw_transformers.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "optim/update_kernels.h"
#include "vector_file.h"

namespace strata {
namespace {

std::unique_ptr<Optimizer> make_optimizer(const vector_file::File& file, const std::string& which) {
  const auto h = [&](const char* name) { return file.number(which + "/h/" + name); };
  const std::string family = which.substr(0, which.find('/'));
  if (family == "sgd") return std::make_unique<Sgd>(SgdConfig{.momentum = h("momentum"), .nesterov = h("nesterov") != 0.0});
  if (family == "lion") return std::make_unique<Lion>(LionConfig{.beta1 = h("beta1"), .beta2 = h("beta2")});
  if (family == "adamw_a") return std::make_unique<AdamW>(AdamWConfig{h("beta1"), h("beta2"), h("eps")});
  return std::make_unique<TransformersAdamW>(TransformersAdamWConfig{h("beta1"), h("beta2"), h("eps")});
}

void replay(const vector_file::File& file, const std::string& which) {
  SCOPED_TRACE(which);
  const auto optimizer = make_optimizer(file, which);
  std::vector<float> p = file.floats(which + "/w0"), first(p.size()), second(p.size());
  vector_file::Difference of_p, of_first, of_second;
  of_p.track(p);
  const ParamGroup group{.weight_decay = file.number(which + "/h/weight_decay")};
  std::int64_t updates = 0, t = 0;
  for (const double lr : file.learning_rates(which)) {
    const std::string step = which + "/step" + std::to_string(++t);
    if (!file.has(step + "/skipped")) {
      const std::vector<float> g = file.gradient(which, t);
      optimizer->update(
          {.p = p.data(), .states = {first.data(), second.data()}, .g = g.data(), .n = static_cast<std::int64_t>(p.size())},
          {.number = ++updates, .lr = lr}, group);
      of_first.track(first);
      of_second.track(second);
      if (file.has(step + "/m")) of_first.compare(first, file.floats(step + "/m"));
      if (file.has(step + "/v")) of_second.compare(second, file.floats(step + "/v"));
    }
    of_p.compare(p, file.floats(step + "/w"));
    ASSERT_LE(of_p.worst(), 1e-6) << "step " << t;
    ASSERT_LE(of_first.worst(), 1e-6) << "step " << t;
    ASSERT_LE(of_second.worst(), 1e-6) << "step " << t;
  }
  ::testing::Test::RecordProperty(which, std::to_string(of_p.worst()));
}

TEST(SimpleOracle, TwelveStepsAgreeWithTheAuthorsToOneInAMillion) {
  const vector_file::File file("simple.bin");
  int cases = 0;
  for (const char* family : {"sgd", "lion", "adamw_a", "adamw_b"}) {
    for (const std::string& which : file.cases(family)) {
      if (which == "sgd/dampening") continue;  // which Sgd has not
      replay(file, which);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 14);
}

TEST(SimpleOracle, WhatApolloDoesNotProjectAgreesWithItsAuthors) { replay(vector_file::File("apollo.bin"), "regular/vector"); }

// With its scalars: betas in f32, their powers multiplied up in f32, which near 1 - beta2 is worth 1e-5 of an update.
TEST(SimpleOracle, WithDeepSpeedsScalarsAdamWIsDeepSpeeds) {
  const vector_file::File file("deepspeed.bin");
  int cases = 0;
  for (const std::string& which : file.cases("adamw_ds")) {
    SCOPED_TRACE(which);
    const auto h = [&](const char* name) { return file.number(which + "/h/" + name); };
    const auto beta1 = static_cast<float>(h("beta1")), beta2 = static_cast<float>(h("beta2"));
    float power1 = 1.0f, power2 = 1.0f;
    std::vector<float> p = file.floats(which + "/w0"), m(p.size()), v(p.size());
    vector_file::Difference of_p, of_m, of_v;
    of_p.track(p);
    std::int64_t t = 0;
    for (const double lr : file.learning_rates(which)) {
      const std::string step = which + "/step" + std::to_string(++t);
      const std::vector<float> g = file.gradient(which, t);
      power1 *= beta1, power2 *= beta2;
      AdamWScalars scalars =
          adamw_scalars({beta1, beta2, h("eps")}, {.number = t, .lr = lr}, {.weight_decay = h("weight_decay")});
      scalars.step_size = static_cast<float>(lr) / (1.0f - power1);
      scalars.inv_sqrt_bias2 = 1.0f / std::sqrt(1.0f - power2);
      update_kernels().adamw({.p = p.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = std::ssize(p)}, scalars);
      of_m.track(m);
      of_v.track(v);
      of_p.compare(p, file.floats(step + "/w"));
      if (file.has(step + "/m")) of_m.compare(m, file.floats(step + "/m"));
      if (file.has(step + "/v")) of_v.compare(v, file.floats(step + "/v"));
      ASSERT_LE(of_p.worst(), 1e-6) << "step " << t;
      ASSERT_LE(of_m.worst(), 1e-6) << "step " << t;
      ASSERT_LE(of_v.worst(), 1e-6) << "step " << t;
    }
    EXPECT_EQ(t, 25);
    ++cases;
  }
  EXPECT_EQ(cases, 3);
}

// The two families differ where gradients are as small as eps, so the test above can tell them apart.
TEST(SimpleOracle, TheFamiliesOfAdamWDiffer) {
  const vector_file::File file("simple.bin");
  const std::vector<float> a = file.floats("adamw_a/small/step2/w"), b = file.floats("adamw_b/small/step2/w");
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  EXPECT_GT(most, 1e-4);
}

}  // namespace
}  // namespace strata
