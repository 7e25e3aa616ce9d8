// Every body of an element-wise update gives the same bits, whatever the length, alignment and cutting. Mutations caught: a * b
// + c instead of fma in one body, a reciprocal estimate instead of division, NaN not canonicalised, rounding to bf16 by
// truncation, a tail mask one too long or short, flush to zero, p16 streamed to the wrong line, the sign of zero as 1, Lion's
// betas swapped, Nesterov's step from the old momentum, a state written where the step has none.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "optim/adamw.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "runtime/kernels/isa.h"
#include "runtime/status.h"
#include "update_testing.h"

namespace strata {
namespace {

using namespace update_testing;  // NOLINT

constexpr std::uint32_t kCanonicalNaN = 0x7fc00000u;
constexpr std::size_t kLengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097};

// The contracts, literally: p and the states from the gradient.
using Element = std::function<void(float& p, float& first, float& second, float g)>;

Element adamw_element(const AdamWScalars& c) {
  return [c](float& p, float& m, float& v, float gradient) {
    const float g = gradient * c.grad_scale;
    const float decayed = p * c.decay_factor;
    m = std::fma(c.one_minus_beta1, g - m, m);
    v = std::fma(c.one_minus_beta2 * g, g, c.beta2 * v);
    p = std::fma(-c.step_size, m / std::fma(std::sqrt(v), c.inv_sqrt_bias2, c.eps), decayed);
  };
}

Element transformers_adamw_element(const TransformersAdamWScalars& c) {
  return [c](float& p, float& m, float& v, float gradient) {
    const float g = gradient * c.grad_scale;
    m = std::fma(c.one_minus_beta1, g - m, m);
    v = std::fma(c.one_minus_beta2 * g, g, c.beta2 * v);
    p = std::fma(-c.step_size, m / (std::sqrt(v) + c.eps), p) * c.decay_factor;
  };
}

Element lion_element(const LionScalars& c) {
  return [c](float& p, float& m, float&, float gradient) {
    const float g = gradient * c.grad_scale;
    const float direction = std::fma(c.one_minus_beta1, g, c.beta1 * m);
    const float sign = direction > 0.0f ? 1.0f : direction < 0.0f ? -1.0f : direction;
    p = std::fma(-c.lr, sign, p * c.decay_factor);
    m = std::fma(c.one_minus_beta2, g, c.beta2 * m);
  };
}

Element sgd_element(const SgdScalars& c, bool has_momentum, bool nesterov) {
  return [=](float& p, float& momentum, float&, float gradient) {
    float d = std::fma(c.weight_decay, p, gradient * c.grad_scale);
    if (has_momentum) {
      const float b = std::fma(c.momentum, momentum, d);
      d = nesterov ? std::fma(c.momentum, b, d) : b;
      momentum = b;
    }
    p = std::fma(-c.lr, d, p);
  };
}

Element element_of(const std::string& method, const UpdateStep& step, const ParamGroup& group) {
  if (method == "AdamW") return adamw_element(adamw_scalars({}, step, group));
  if (method == "TransformersAdamW") return transformers_adamw_element(transformers_adamw_scalars({}, step, group));
  if (method == "Lion") return lion_element(lion_scalars({}, step, group));
  const SgdConfig config{.momentum = method == "Sgd" ? 0.0 : 0.9};
  return sgd_element(sgd_scalars(config, step, group), method != "Sgd", method == "Nesterov");
}

// With one NaN; what the method does not keep stays as it is.
void reference(const Method& method, const UpdateSlice& s, const UpdateStep& step, const ParamGroup& group) {
  const Element element = element_of(method.name, step, group);
  const std::size_t states = method.optimizer->states().size();
  const auto canonical = [](float x) { return std::isnan(x) ? std::bit_cast<float>(kCanonicalNaN) : x; };
  for (std::int64_t i = 0; i < s.n; ++i) {
    float first = s.states[0][i], second = s.states[1][i];
    element(s.p[i], first, second, s.g16 != nullptr ? to_float(s.g16[i]) : s.g[i]);
    s.p[i] = canonical(s.p[i]);
    if (states > 0) s.states[0][i] = canonical(first);
    if (states > 1) s.states[1][i] = canonical(second);
    if (s.p16 != nullptr) s.p16[i] = to_bf16(s.p[i]);
  }
}

// Runs each test with every method and every instruction set of this machine.
class UpdateBits : public ::testing::TestWithParam<std::tuple<Method, kernels::Isa>> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(std::get<1>(GetParam())).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }
  static const Method& method() { return std::get<0>(GetParam()); }
  static void run(const UpdateSlice& slice, const ParamGroup& group = kDecays) {
    method().optimizer->update(slice, kStep, group);
  }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

TEST_P(UpdateBits, EqualTheWrittenSequenceForAnyValueLengthAndAlignment) {
  for (const std::size_t n : kLengths) {
    for (const std::size_t offset : {0, 1, 2, 3, 5, 8, 13}) {
      for (const ParamGroup& group : {ParamGroup{}, kDecays, ParamGroup{.lr_scale = 0.25, .weight_decay = 0.1}}) {
        for (const auto& [with16, gradient16] : {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
          State want(n, 0), got(n, offset);
          want.fill(n, n + offset);
          got.fill(n, n + offset);
          reference(method(), want.slice(0, n, with16, gradient16), kStep, group);
          run(got.slice(0, n, with16, gradient16), group);
          ASSERT_TRUE(same(want, got, n)) << "n " << n << ", offset " << offset << ", decay " << group.weight_decay << ", p16 "
                                          << with16 << ", g16 " << gradient16;
          ASSERT_TRUE(got.guards_intact()) << "wrote outside: n " << n << ", offset " << offset;
        }
      }
    }
  }
}

TEST_P(UpdateBits, ResultsMayGoElsewhere) {
  const std::size_t states = method().optimizer->states().size();
  for (const std::size_t n : kLengths) {
    for (const std::size_t offset : {0, 1, 13}) {
      State want(n, 0), from(n, offset), to(n, offset + 2);
      want.fill(n, n);
      from.fill(n, n);
      to.fill(n, n);  // what the method does not keep
      run(want.slice(0, n, true));
      UpdateSlice slice = from.slice(0, n, true);
      slice.p16 = to.p16.data();
      slice.new_p = to.p.data();
      if (states > 0) slice.new_states[0] = to.first.data();
      if (states > 1) slice.new_states[1] = to.second.data();
      ThreadPool pool(2);
      update(*method().optimizer, slice, kStep, kDecays, pool);
      ASSERT_TRUE(same(want, to, n)) << "n " << n << ", offset " << offset;
      State kept(n, 0);
      kept.fill(n, n);
      ASSERT_TRUE(same(kept, from, n)) << "n " << n << ", offset " << offset;
      ASSERT_TRUE(to.guards_intact() && from.guards_intact());
    }
  }
}

TEST_P(UpdateBits, DoNotDependOnCutting) {
  constexpr std::size_t kN = 4097;
  State whole(kN, 0);
  whole.fill(kN, 1);
  run(whole.slice(0, kN, true));
  for (const std::size_t cut : {1, 15, 16, 17, 33, 1000, 4095, 4096}) {
    State pieces(kN, 1);
    pieces.fill(kN, 1);
    for (std::size_t i = 0; i < kN; i += cut) run(pieces.slice(i, std::min(cut, kN - i), true));
    ASSERT_TRUE(same(whole, pieces, kN)) << "cut " << cut;
  }
}

TEST_P(UpdateBits, DoNotDependOnTheNumberOfThreads) {
  constexpr std::size_t kN = 3 * 65536 + 17;
  for (const bool gradient16 : {false, true}) {
    State alone(kN, 0);
    alone.fill(kN, 2);
    run(alone.slice(0, kN, true, gradient16));
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      State shared(kN, 3);
      shared.fill(kN, 2);
      update(*method().optimizer, shared.slice(0, kN, true, gradient16), kStep, kDecays, pool);
      ASSERT_TRUE(same(alone, shared, kN)) << threads << " threads";
      ASSERT_TRUE(shared.guards_intact());
    }
  }
}

// A step that does not clip, and a group that does not decay, are those without these multiplications.
TEST_P(UpdateBits, AScaleAndADecayOfNothingChangeNothing) {
  constexpr std::size_t kN = 1000;
  const UpdateStep step{.number = 7, .lr = 3e-4};
  State got(kN, 0), want(kN, 0);
  got.fill(kN, 3);
  want.fill(kN, 3);
  method().optimizer->update(got.slice(0, kN, true), step, {});
  const std::string name = method().name;
  const AdamWScalars a = adamw_scalars({}, step, {});
  const LionScalars l = lion_scalars({}, step, {});
  const auto canonical = [](float x) { return std::isnan(x) ? kCanonicalNaN : bits(x); };
  for (std::size_t i = 0; i < kN; ++i) {
    const float p = want.p.data()[i], m = want.first.data()[i], v = want.second.data()[i], g = want.g.data()[i];
    if (name == "AdamW") {
      const float first = std::fma(a.one_minus_beta1, g - m, m), second = std::fma(a.one_minus_beta2 * g, g, a.beta2 * v);
      const float d = std::fma(std::sqrt(second), a.inv_sqrt_bias2, a.eps);
      ASSERT_EQ(bits(got.p.data()[i]), canonical(std::fma(-a.step_size, first / d, p))) << i;
    } else if (name == "Lion") {
      ASSERT_EQ(bits(got.first.data()[i]), canonical(std::fma(l.one_minus_beta2, g, l.beta2 * m))) << i;
    } else if (name == "Sgd" && std::isfinite(p)) {
      ASSERT_EQ(bits(got.p.data()[i]), canonical(std::fma(-3e-4f, g, p))) << i;
    }
  }
}

TEST_P(UpdateBits, KeepTheCanonicalNaN) {
  State state(1, 0);
  *state.p.data() = *state.first.data() = *state.second.data() = 1.0f;
  *state.g.data() = -std::numeric_limits<float>::quiet_NaN();
  run(state.slice(0, 1, true));
  const std::size_t states = method().optimizer->states().size();
  EXPECT_EQ(bits(*state.p.data()), kCanonicalNaN);
  EXPECT_EQ(state.p16.data()->bits, kBf16CanonicalNaN);
  if (states > 0) {
    EXPECT_EQ(bits(*state.first.data()), kCanonicalNaN);
  }
  if (states > 1) {
    EXPECT_EQ(bits(*state.second.data()), kCanonicalNaN);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, UpdateBits,
                         ::testing::Combine(::testing::ValuesIn(methods()), ::testing::ValuesIn(kernels::available_isas())),
                         [](const auto& tested) {
                           return std::string(std::get<0>(tested.param).name) + "_" +
                                  kernels::to_string(std::get<1>(tested.param));
                         });

TEST(UpdateTest, KeepsDenormals) {
  const kernels::Isa before = kernels::active_isa();
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::set_isa(isa).ok());
    float p = 0x1p-140f, m = 0x1p-148f, v = 0x1p-140f;
    const float g = 0.0f;
    AdamW().update({.p = &p, .states = {&m, &v}, .g = &g, .n = 1}, kStep, {});
    EXPECT_EQ(m, 0x1p-148f);  // 0.9 of two units in the last place is two
    EXPECT_GT(v, 0x1.fep-141f);
    EXPECT_LT(v, 0x1p-140f);
    EXPECT_NE(p, 0.0f);
  }
  ASSERT_TRUE(kernels::set_isa(before).ok());
}

TEST(LionTest, ADirectionOfZeroMovesNothing) {
  float p = 3.0f, m = 0.0f;
  const float g = 0.0f;
  Lion().update({.p = &p, .states = {&m}, .g = &g, .n = 1}, {.lr = 0.1}, {});
  EXPECT_EQ(p, 3.0f);
}

TEST(AdamWScalarsTest, FollowTheClosedForms) {
  const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
  for (const std::int64_t step : {1, 2, 3, 10, 1000, 1000000}) {
    const double lr = 6e-4;
    const AdamWScalars s = adamw_scalars(config, {step, 2.0 * lr, 0.5}, {.lr_scale = 0.5, .weight_decay = 0.1});
    const auto n = static_cast<double>(step);
    EXPECT_FLOAT_EQ(s.step_size, static_cast<float>(lr / -std::expm1(n * std::log(0.9))));
    EXPECT_FLOAT_EQ(s.inv_sqrt_bias2, static_cast<float>(1.0 / std::sqrt(-std::expm1(n * std::log(0.95)))));
    EXPECT_EQ(s.decay_factor, static_cast<float>(1.0 - 6e-5));
    EXPECT_EQ(s.one_minus_beta2, static_cast<float>(1.0 - 0.95));  // not 1.0f - 0.95f
    EXPECT_EQ(s.grad_scale, 0.5f);
  }
  EXPECT_THROW(adamw_scalars(config, {0, 1e-3, 1.0}, {}), ContractViolation);
}

}  // namespace
}  // namespace strata
