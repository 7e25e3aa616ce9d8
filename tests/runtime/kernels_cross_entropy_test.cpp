#include <gtest/gtest.h>

#include <limits>

#include "kernel_testing.h"
#include "runtime/kernels/cross_entropy.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT

struct Size {
  std::int64_t R, V;
};
// 1023 .. 1025 stand around the chunk of the denominator; {40, 1733} is cut into several tasks.
const std::vector<Size> kSizes = {{0, 16},   {1, 1},    {5, 2},    {5, 15},    {1, 16},  {5, 17},
                                  {5, 1023}, {5, 1024}, {5, 1025}, {40, 1733}, {3, 8201}};
constexpr float kScale = 0.25f;

struct Expected {
  std::vector<double> loss, dlogits;
};

Expected reference(const Array& logits, const Array& targets) {
  const std::int64_t R = logits.shape()[0], V = logits.shape()[1];
  Expected e;
  for (std::int64_t r = 0; r < R; ++r) {
    const auto target = static_cast<std::int64_t>(targets.at(r));
    if (target == kIgnoreTarget) {
      e.loss.push_back(0.0);
      e.dlogits.insert(e.dlogits.end(), static_cast<std::size_t>(V), 0.0);
      continue;
    }
    double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (std::int64_t v = 0; v < V; ++v) top = std::max(top, logits.at(r * V + v));
    for (std::int64_t v = 0; v < V; ++v) sum += std::exp(logits.at(r * V + v) - top);
    e.loss.push_back(std::log(sum) - (logits.at(r * V + target) - top));
    for (std::int64_t v = 0; v < V; ++v)
      e.dlogits.push_back((std::exp(logits.at(r * V + v) - top) / sum - (v == target ? 1.0 : 0.0)) *
                          static_cast<double>(kScale));
  }
  return e;
}

Array targets_of(std::int64_t R, std::int64_t V) {
  Array targets = tokens(R, V, "targets");
  for (std::int64_t r = 0; r < R; ++r) {
    if (r % 4 == 1) targets.set(r, static_cast<double>(V - 1));
    if (r % 4 == 3) targets.set(r, kIgnoreTarget);
  }
  return targets;
}

TEST(CrossEntropy, LossAndGradientEqualTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out_dtype : {DType::f32, DType::bf16})
      for (const auto [R, V] : kSizes) {
        SCOPED_TRACE(::testing::Message() << R << " x " << V << " " << to_string(dtype) << " to " << to_string(out_dtype));
        const Array logits = normal(dtype, {R, V}, "logits", 3.0, 4.0);
        const Array targets = targets_of(R, V);
        const Expected expected = reference(logits, targets);
        on_every_machine(
            [&, rows = R, vocab = V](StreamRef stream) {
              Array x = logits, t = targets, loss(DType::f32, {rows}), alone(DType::f32, {rows}), dx(out_dtype, {rows, vocab});
              cross_entropy(
                  {.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = alone.ref(), .dlogits_RV = {}, .scale = kScale},
                  stream);
              cross_entropy(
                  {.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = dx.ref(), .scale = kScale},
                  stream);
              if (dtype == out_dtype)
                cross_entropy(
                    {.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = x.ref(), .scale = kScale},
                    stream);
              finish(stream);
              EXPECT_TRUE(loss == alone);
              EXPECT_TRUE(dtype != out_dtype || x == dx) << "in place";
              return Outputs{loss, dx};
            },
            [&](const Outputs& out) {
              expect_close(out[0], expected.loss, "loss");
              expect_close(out[1], expected.dlogits, "dlogits");
            },
            Bits::of_addresses);  // which of a block's threads adds what
      }
}

TEST(CrossEntropy, ExtremeLogitsDoNotOverflow) {
  constexpr std::int64_t kV = 2100;
  const double inf = std::numeric_limits<double>::infinity();
  Array logits(DType::f32, {3, kV}), targets(DType::i32, {3});
  for (std::int64_t v = 0; v < kV; ++v) {
    logits.set(v, v == 2000 ? 3e38 : -3e38);    // a certain prediction, found in a late chunk
    logits.set(kV + v, v < 1500 ? -inf : 0.0);  // masked entries, a whole chunk of them
    logits.set(2 * kV + v, 1e30);               // uniform, far from zero
  }
  targets.set(0, 2000);
  targets.set(1, 1999);
  targets.set(2, 0);
  const Expected expected = reference(logits, targets);
  EXPECT_NEAR(expected.loss[1], std::log(600.0), 1e-12);
  on_every_machine(
      [&](StreamRef stream) {
        Array x = logits, t = targets, loss(DType::f32, {3}), dx(DType::f32, {3, kV});
        cross_entropy(
            {.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = dx.ref(), .scale = kScale},
            stream);
        finish(stream);
        return Outputs{loss, dx};
      },
      [&](const Outputs& out) {
        expect_close(out[0], expected.loss, "loss");
        expect_close(out[1], expected.dlogits, "dlogits");
      });
}

TEST(CrossEntropy, ANaNLogitShowsInItsRowOnly) {
  Array logits = normal(DType::f32, {2, 40}, "logits"), targets(DType::i32, {2});
  logits.set(40 + 38, std::numeric_limits<double>::quiet_NaN());
  on_every_machine(
      [&](StreamRef stream) {
        Array x = logits, t = targets, loss(DType::f32, {2});
        cross_entropy({.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = {}, .scale = 1.0f},
                      stream);
        finish(stream);
        return Outputs{loss};
      },
      [](const Outputs& out) {
        EXPECT_TRUE(std::isfinite(out[0].at(0)));
        EXPECT_TRUE(std::isnan(out[0].at(1)));
      });
}

TEST(CrossEntropy, ATargetOutsideTheVocabularyIsAnErrorThatNamesRowAndValue) {
  for (const std::int32_t bad : {-1, 9, -99}) {
    Device device(Backend::host, 2);
    Stream stream(device, "compute");
    Array x(DType::f32, {4, 9}), t(DType::i32, {4}), loss(DType::f32, {4});
    t.set(2, bad);
    cross_entropy({.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = {}, .scale = 1.0f}, stream);
    const Status status = stream.ref().synchronize();
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("row 2"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(std::to_string(bad)), std::string::npos) << status.message();
  }
}

TEST(CrossEntropy, RefusesGradientsOfAnotherDtypeInPlace) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array x(DType::f32, {4, 9}), t(DType::i32, {4}), loss(DType::f32, {4});
  const TensorRef narrow{x.ref().data, DType::bf16, {4, 9}};
  EXPECT_THROW(
      cross_entropy({.logits_RV = x.ref(), .targets_R = t.ref(), .loss_R = loss.ref(), .dlogits_RV = narrow, .scale = 1.0f},
                    stream),
      ContractViolation);
}

}  // namespace
}  // namespace strata::kernels
