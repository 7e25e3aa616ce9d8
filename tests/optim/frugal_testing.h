// FRUGAL's updates as their contract says them, element by element, and matrices to run them on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optim/frugal.h"
#include "tests/machines/machines.h"
#include "update_testing.h"

namespace strata::frugal_testing {

using update_testing::bits;
using update_testing::Guarded;
using update_testing::Values;

struct Method {
  const char* name;
  FrugalConfig config;
};
inline std::vector<Method> methods() {
  return {{"AdamW", {.stateful = AdamWConfig{}}},
          {"Lion", {.stateful = LionConfig{}}},
          {"Momentum", {.stateful = FrugalMomentumConfig{}}}};
}
inline constexpr StateFreeRule kStateFreeRules[] = {StateFreeRule::none, StateFreeRule::sgd, StateFreeRule::sign_sgd};
inline constexpr UpdateStep kStep{.number = 207, .lr = 3e-4, .grad_scale = 0.37};
inline constexpr ParamGroup kDecays{.lr_scale = 0.5, .weight_decay = 0.1, .projected = true};

// A matrix of which some elements have states.
struct Matrix {
  std::int64_t rows, columns;
  StatefulSet set;
  std::vector<char> has;  // of each element

  Matrix(StatefulKind kind, std::int64_t m, std::int64_t n, const std::vector<std::int64_t>& chosen)
      : rows(m),
        columns(n),
        set(kind == StatefulKind::none  ? StatefulSet::none(m, n)
            : kind == StatefulKind::all ? StatefulSet::all(m, n)
                                        : StatefulSet::of(kind, m, n, chosen)),
        has(static_cast<std::size_t>(m * n), kind == StatefulKind::all) {
    std::vector<char> is_chosen(static_cast<std::size_t>(m * n + m + n));
    for (const std::int64_t i : chosen) is_chosen[static_cast<std::size_t>(i)] = 1;
    for (std::int64_t e = 0; e < m * n && kind != StatefulKind::none && kind != StatefulKind::all; ++e) {
      const std::int64_t number = kind == StatefulKind::columns ? e % n : kind == StatefulKind::rows ? e / n : e;
      has[static_cast<std::size_t>(e)] = is_chosen[static_cast<std::size_t>(number)];
    }
  }
  // Each column, row or entry with this probability.
  static Matrix random(StatefulKind kind, std::int64_t m, std::int64_t n, double density, std::uint64_t seed) {
    const std::int64_t numbers = kind == StatefulKind::columns   ? n
                                 : kind == StatefulKind::rows    ? m
                                 : kind == StatefulKind::entries ? m * n
                                                                 : 0;
    Values values(seed);
    std::vector<std::int64_t> chosen;
    for (std::int64_t i = 0; i < numbers; ++i)
      if (values.next() < density * 0x1p32) chosen.push_back(i);
    return {kind, m, n, chosen};
  }
  std::int64_t size() const { return rows * columns; }
  std::int64_t before(std::int64_t element) const { return std::count(has.begin(), has.begin() + element, char{1}); }
  std::int64_t states() const { return before(size()); }
};

inline constexpr StatefulKind kKinds[] = {StatefulKind::none, StatefulKind::all, StatefulKind::columns, StatefulKind::rows,
                                          StatefulKind::entries};

// The arrays of a range of a matrix.
struct Arrays {
  Arrays(std::int64_t n, std::int64_t states, std::size_t offset)
      : Arrays(n, states, {offset, offset * 3, offset * 5, offset * 7, offset * 11}) {}
  Arrays(std::int64_t n, std::int64_t states, const update_testing::Offsets& o)
      : n_(static_cast<std::size_t>(n)),
        states_(static_cast<std::size_t>(states)),
        p(n_, o[0], -7.0f),
        first(states_, o[1], -7.0f),
        second(states_, o[2], -7.0f),
        g(n_, o[3], -7.0f),
        g16(n_, o[3], {0xabcd}),
        p16(n_, o[4], {0xabcd}) {}

  void fill(std::uint64_t seed) {
    Values values(seed);
    for (std::size_t i = 0; i < n_; ++i) {
      p.data()[i] = values.any();
      g.data()[i] = values.any();
      g16.data()[i].bits = static_cast<std::uint16_t>(bits(values.any()) >> 16);
    }
    for (std::size_t i = 0; i < states_; ++i) {
      first.data()[i] = values.any();
      second.data()[i] = i % 16 == 3 ? values.any() : std::abs(values.any());
    }
  }
  // Elements [begin, begin + n) and the states from number `states` on.
  UpdateSlice slice(std::int64_t begin, std::int64_t n, std::int64_t states, bool with16, bool gradient16) {
    return {.p = p.data() + begin,
            .states = {first.data() + states, second.data() + states},
            .g = gradient16 ? nullptr : g.data() + begin,
            .g16 = gradient16 ? g16.data() + begin : nullptr,
            .p16 = with16 ? p16.data() + begin : nullptr,
            .n = n};
  }
  UpdateSlice slice(bool with16 = true, bool gradient16 = false) {
    return slice(0, static_cast<std::int64_t>(n_), 0, with16, gradient16);
  }
  bool guards_intact() const {
    return p.guards_intact() && first.guards_intact() && second.guards_intact() && g.guards_intact() && g16.guards_intact() &&
           p16.guards_intact();
  }

  std::size_t n_, states_;
  Guarded<float> p, first, second, g;
  Guarded<bf16> g16, p16;
};

inline ::testing::AssertionResult same(Arrays& a, Arrays& b) {
  for (std::size_t i = 0; i < a.n_; ++i) {
    if (bits(a.p.data()[i]) != bits(b.p.data()[i])) return ::testing::AssertionFailure() << "p[" << i << "]";
    if (a.p16.data()[i].bits != b.p16.data()[i].bits) return ::testing::AssertionFailure() << "p16[" << i << "]";
  }
  for (std::size_t i = 0; i < a.states_; ++i) {
    if (bits(a.first.data()[i]) != bits(b.first.data()[i])) return ::testing::AssertionFailure() << "first state[" << i << "]";
    if (bits(a.second.data()[i]) != bits(b.second.data()[i]))
      return ::testing::AssertionFailure() << "second state[" << i << "]";
  }
  return ::testing::AssertionSuccess();
}

// frugal.h, literally, over the elements from `first` on. What the method does not keep stays as it is.
inline void reference(const FrugalConfig& config, const Matrix& matrix, std::int64_t first, const UpdateSlice& s,
                      const UpdateStep& step, const ParamGroup& group) {
  const auto canonical = [](float x) { return std::isnan(x) ? std::bit_cast<float>(0x7fc00000u) : x; };
  const std::int64_t number = (step.number - 1) % config.update_gap + 1;
  const bool zero = config.reset_statistics ? number == 1 : step.number == 1;
  const double lr = step.lr * group.lr_scale, a = lr * config.proj_params_lr_scale;
  const auto decay = static_cast<float>(1.0 - lr * group.weight_decay), scale = static_cast<float>(step.grad_scale);
  const UpdateStep local{config.reset_statistics ? number : step.number, a, step.grad_scale};
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < s.n; ++i) {
    const float g = (s.g16 != nullptr ? to_float(s.g16[i]) : s.g[i]) * scale;
    const float decayed = s.p[i] * decay;
    float& p = s.p[i];
    if (matrix.has[static_cast<std::size_t>(first + i)] == 0) {
      const float sign = g > 0.0f ? 1.0f : g < 0.0f ? -1.0f : g;
      const auto minus_lr = static_cast<float>(-(a * config.inactive_lr_scale));
      p = config.state_free == StateFreeRule::none
              ? decayed
              : std::fma(minus_lr, config.state_free == StateFreeRule::sgd ? g : sign, decayed);
    } else {
      float& first_state = s.states[0][at];
      const float m = zero ? 0.0f : first_state;
      if (const auto* adamw = std::get_if<AdamWConfig>(&config.stateful)) {
        const AdamWScalars c = adamw_scalars(*adamw, local, {});
        float& v = s.states[1][at];
        first_state = std::fma(c.one_minus_beta1, g - m, m);
        v = std::fma(c.one_minus_beta2 * g, g, c.beta2 * (zero ? 0.0f : v));
        p = std::fma(-c.step_size, first_state / std::fma(std::sqrt(v), c.inv_sqrt_bias2, c.eps), decayed);
        v = canonical(v);
      } else if (const auto* lion = std::get_if<LionConfig>(&config.stateful)) {
        const LionScalars c = lion_scalars(*lion, local, {});
        const float direction = std::fma(c.one_minus_beta1, g, c.beta1 * m);
        p = std::fma(-c.lr, direction > 0.0f ? 1.0f : direction < 0.0f ? -1.0f : direction, decayed);
        first_state = std::fma(c.one_minus_beta2, g, c.beta2 * m);
      } else {
        const auto momentum = static_cast<float>(std::get<FrugalMomentumConfig>(config.stateful).momentum);
        first_state = std::fma(momentum, m, g);
        p = std::fma(static_cast<float>(-a), first_state, decayed);
      }
      first_state = canonical(first_state);
      ++at;
    }
    p = canonical(p);
    if (s.p16 != nullptr) s.p16[i] = to_bf16(p);
  }
}

}  // namespace strata::frugal_testing
