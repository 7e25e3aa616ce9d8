#include <gtest/gtest.h>

#include <limits>
#include <numbers>

#include "kernel_testing.h"
#include "runtime/kernels/activation.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT

double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x))); }
double silu(double x) { return x / (1.0 + std::exp(-x)); }

// From the far left tail to the far right one, and a normal sample.
Array inputs(DType dtype, std::int64_t n) {
  Array x = normal(dtype, {n}, "x", 0.0, 2.0);
  for (std::int64_t i = 0; i < n; i += 3) x.set(i, -12.0 + 24.0 * static_cast<double>(i) / static_cast<double>(n));
  return x;
}

const std::vector<std::int64_t> kLengths = {0, 1, 15, 16, 17, 80, 769, 40000};

TEST(Gelu, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t n : kLengths) {
      const Array x = inputs(dtype, n);
      std::vector<double> expected;
      for (std::int64_t i = 0; i < n; ++i) expected.push_back(gelu(x.at(i)));
      on_every_machine(
          [&](StreamRef stream) {
            Array in = x, y(dtype, {n});
            gelu_forward({.x = in.ref(), .y = y.ref()}, stream);
            finish(stream);
            return Outputs{y};
          },
          [&](const Outputs& out) { expect_close(out[0], expected, "y"); });
    }
}

TEST(Gelu, BackwardEqualsTheDerivativeInPlaceToo) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t n : kLengths) {
      const Array x = inputs(dtype, n), dy = normal(dtype, {n}, "dy");
      std::vector<double> expected;
      for (std::int64_t i = 0; i < n; ++i) {
        const double h = 1e-5;
        expected.push_back(dy.at(i) * (gelu(x.at(i) + h) - gelu(x.at(i) - h)) / (2.0 * h));
      }
      on_every_machine(
          [&](StreamRef stream) {
            Array in = x, d = dy, dx(dtype, {n});
            gelu_backward({.x = in.ref(), .dy = d.ref(), .dx = dx.ref()}, stream);
            gelu_backward({.x = in.ref(), .dy = d.ref(), .dx = d.ref()}, stream);
            finish(stream);
            EXPECT_TRUE(dx == d);
            return Outputs{dx};
          },
          [&](const Outputs& out) { expect_close(out[0], expected, "dx"); });
    }
}

TEST(Gelu, IsFiniteForEveryFiniteInputAndShowsNaN) {
  const std::vector<double> extremes = {3e38, -3e38, 1e20, -1e20, 100.0, -100.0, 33.0, -33.0, 1e-40, 0.0};
  on_every_machine(
      [&](StreamRef stream) {
        const auto n = static_cast<std::int64_t>(extremes.size()) + 1;
        Array x(DType::f32, {n}), y(DType::f32, {n}), dy(DType::f32, {n}), dx(DType::f32, {n});
        for (std::int64_t i = 0; i < n; ++i) {
          x.set(i, i + 1 < n ? extremes[static_cast<std::size_t>(i)] : std::numeric_limits<double>::quiet_NaN());
          dy.set(i, 1.0);
        }
        gelu_forward({.x = x.ref(), .y = y.ref()}, stream);
        gelu_backward({.x = x.ref(), .dy = dy.ref(), .dx = dx.ref()}, stream);
        finish(stream);
        return Outputs{y, dx};
      },
      [&](const Outputs& out) {
        const auto n = static_cast<std::int64_t>(extremes.size());
        for (std::int64_t i = 0; i < n; ++i) {
          const double x = extremes[static_cast<std::size_t>(i)];
          if (std::abs(x) < 1.0) continue;
          EXPECT_EQ(out[0].at(i), x > 0.0 ? static_cast<double>(static_cast<float>(x)) : 0.0) << x;
          EXPECT_EQ(out[1].at(i), x > 0.0 ? 1.0 : 0.0) << x;
        }
        EXPECT_TRUE(std::isnan(out[0].at(n)) && std::isnan(out[1].at(n)));
      });
}

struct Size {
  std::int64_t R, F;
};
const std::vector<Size> kSizes = {{0, 8}, {1, 1}, {5, 15}, {5, 16}, {1, 17}, {5, 80}, {5, 769}, {60, 769}};

TEST(Swiglu, ForwardEqualsTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto [R, F] : kSizes) {
      const Array x = normal(dtype, {R, 2 * F}, "gate_up", 0.0, 3.0);
      std::vector<double> expected;
      for (std::int64_t r = 0; r < R; ++r)
        for (std::int64_t i = 0; i < F; ++i) expected.push_back(silu(x.at(2 * r * F + i)) * x.at((2 * r + 1) * F + i));
      on_every_machine(
          [&, rows = R, width = F](StreamRef stream) {
            Array in = x, y(dtype, {rows, width});
            swiglu_forward({.gate_up_RG = in.ref(), .y_RF = y.ref()}, stream);
            finish(stream);
            return Outputs{y};
          },
          [&](const Outputs& out) { expect_close(out[0], expected, "y"); });
    }
}

TEST(Swiglu, BackwardEqualsTheDerivativeInPlaceToo) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto [R, F] : kSizes) {
      const Array x = normal(dtype, {R, 2 * F}, "gate_up", 0.0, 3.0), dy = normal(dtype, {R, F}, "dy");
      std::vector<double> expected(static_cast<std::size_t>(2 * R * F));
      for (std::int64_t r = 0; r < R; ++r)
        for (std::int64_t i = 0; i < F; ++i) {
          const std::int64_t gate = 2 * r * F + i, up = gate + F;
          const double g = x.at(gate), sigmoid = 1.0 / (1.0 + std::exp(-g)), d = dy.at(r * F + i);
          expected[static_cast<std::size_t>(gate)] = d * x.at(up) * sigmoid * (1.0 + g * (1.0 - sigmoid));
          expected[static_cast<std::size_t>(up)] = d * silu(g);
        }
      on_every_machine(
          [&, rows = R, width = F](StreamRef stream) {
            Array in = x, d = dy, dx(dtype, {rows, 2 * width});
            swiglu_backward({.gate_up_RG = in.ref(), .dy_RF = d.ref(), .dgate_up_RG = dx.ref()}, stream);
            swiglu_backward({.gate_up_RG = in.ref(), .dy_RF = d.ref(), .dgate_up_RG = in.ref()}, stream);
            finish(stream);
            EXPECT_TRUE(dx == in);
            return Outputs{dx};
          },
          [&](const Outputs& out) { expect_close(out[0], expected, "dgate_up"); });
    }
}

}  // namespace
}  // namespace strata::kernels
