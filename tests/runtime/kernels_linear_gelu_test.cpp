// The products of linear.h with GELU, also where a GPU's library cannot fuse them (gpu/gemm_epilogue.h).
#include <algorithm>
#include <numbers>

#include "kernel_testing.h"
#include "runtime/kernels/activation.h"
#include "runtime/kernels/linear.h"
#include "tests/emulator/emulated_driver.h"

namespace strata::kernels::testing {
namespace {

constexpr double kCubic = 0.044715;
double tanh_of(double x) { return std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + kCubic * x * x * x)); }
double gelu(double x) { return 0.5 * x * (1.0 + tanh_of(x)); }
double gelu_slope(double x) {
  const double t = tanh_of(x);
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * std::sqrt(2.0 / std::numbers::pi) * (1.0 + 3.0 * kCubic * x * x);
}

// Sums of `terms` products of values of order 1.
double sum_factor(std::int64_t terms) { return 1.0 + std::sqrt(static_cast<double>(terms)); }

const strata::testing::GpuMachine& machine_without_fused_products() {
  static const strata::testing::GpuMachine machine = {
      "emulated, without fused products", 1,
      [](int) -> std::unique_ptr<GpuDriver> { return gpu_emulated::make_emulated_driver({.refuses_epilogues = true}); }};
  return machine;
}

void on_every_machine_and_way(const Kernel& kernel, const Check& check) {
  on_every_machine(kernel, check);
  if (strata::testing::tests_the_host()) on_gpu(machine_without_fused_products(), kernel, check);
}

// y is gelu of a sum that pre is the rounding of.
void expect_gelu_of(const Array& pre, const Array& y) {
  EXPECT_TRUE(y.guard_is_intact());
  const strata::testing::Tolerance tolerance = strata::testing::kernel_tolerance(y.dtype());
  for (std::int64_t i = 0; i < pre.numel(); ++i) {
    const double at = pre.at(i), rounding = tolerance.relative * std::abs(at);
    const auto [low, high] = std::minmax({gelu(at - rounding), gelu(at), gelu(at + rounding)});
    const double allowed = tolerance.absolute + tolerance.relative * std::max(std::abs(low), std::abs(high));
    ASSERT_GE(y.at(i), low - allowed) << "y[" << i << "], pre " << at << " " << to_string(y.dtype());
    ASSERT_LE(y.at(i), high + allowed) << "y[" << i << "], pre " << at << " " << to_string(y.dtype());
  }
}

struct LinearShape {
  std::int64_t R, I, O;
};

// As kernels_linear_test.cpp's: rows and columns of one tile and of more, and widths that are and are not multiples of 8.
const std::vector<LinearShape> kShapes = {{1, 1, 1},      {1, 7, 13},     {2, 3, 1},      {17, 31, 37},   {64, 64, 64},
                                          {130, 72, 400}, {130, 401, 70}, {521, 37, 397}, {521, 400, 24}, {5, 1030, 3}};

// Shape, dtype, and whether the weight lies as (in, out).
class LinearGeluTest : public ::testing::TestWithParam<std::tuple<LinearShape, DType, bool>> {
 protected:
  const LinearShape shape = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  const bool turned = std::get<2>(GetParam());
  const std::int64_t R = shape.R, I = shape.I, O = shape.O;
  Array x = normal(dtype, {R, I}, "x");
  // Sums of order 1 and more: from the left tail of gelu to its right one.
  Array w = normal(dtype, {O, I}, "w", 0.0, 2.0 / std::sqrt(static_cast<double>(I)));
  Array b = normal(dtype, {O}, "b");
  Array dy = normal(dtype, {R, O}, "dy");
  Array pre = normal(dtype, {R, I}, "pre", 0.0, 2.0);
  Array stored_w() const { return turned ? transposed(w) : w; }
};

TEST_P(LinearGeluTest, ForwardIsTheProductPlusBiasAndItsGelu) {
  for (const bool bias : {false, true}) {
    std::vector<double> sums(static_cast<std::size_t>(R * O));
    for (std::int64_t r = 0; r < R; ++r) {
      for (std::int64_t o = 0; o < O; ++o) {
        double sum = bias ? b.at(o) : 0.0;
        for (std::int64_t i = 0; i < I; ++i) sum += x.at(r * I + i) * w.at(o * I + i);
        sums[static_cast<std::size_t>(r * O + o)] = sum;
      }
    }
    on_every_machine_and_way(
        [&](StreamRef stream) {
          Array before = normal(dtype, {R, O}, "what was there before"), y = normal(dtype, {R, O}, "and there");
          Array kept = stored_w();
          linear_gelu_forward(
              {x.ref(), kept.ref(), bias ? ConstTensorRef(b.ref()) : ConstTensorRef(), before.ref(), y.ref(), turned}, stream);
          finish(stream);
          return Outputs{before, y};
        },
        [&](const Outputs& out) {
          expect_close(out[0], sums, "pre", sum_factor(I));
          expect_gelu_of(out[0], out[1]);
        });
  }
}

TEST_P(LinearGeluTest, BackwardInputIsTheProductTimesTheSlope) {
  std::vector<double> expected(static_cast<std::size_t>(R * I));
  for (std::int64_t r = 0; r < R; ++r) {
    for (std::int64_t i = 0; i < I; ++i) {
      double sum = 0.0;
      for (std::int64_t o = 0; o < O; ++o) sum += dy.at(r * O + o) * w.at(o * I + i);
      expected[static_cast<std::size_t>(r * I + i)] = sum * gelu_slope(pre.at(r * I + i));
    }
  }
  on_every_machine_and_way(
      [&](StreamRef stream) {
        Array dpre = normal(dtype, {R, I}, "what was there before"), read = pre, kept = stored_w();
        gelu_linear_backward_input({dy.ref(), kept.ref(), read.ref(), dpre.ref(), turned}, stream);
        finish(stream);
        EXPECT_TRUE(read == pre) << "pre is only read";
        return Outputs{dpre};
      },
      [&](const Outputs& out) { expect_close(out[0], expected, "dpre", sum_factor(O)); });
}

// So that nothing changes where a product is not fused.
TEST_P(LinearGeluTest, HostAndRefusingLibraryHaveTheBitsOfTheProductAndThenTheKernel) {
  if (!strata::testing::tests_the_host()) GTEST_SKIP() << "a test of the host and the emulator";
  const Kernel both = [&](StreamRef stream) {
    Array fused_pre(dtype, {R, O}), fused_y(dtype, {R, O}), fused_dpre(dtype, {R, I}), kept = stored_w();
    linear_gelu_forward({x.ref(), kept.ref(), b.ref(), fused_pre.ref(), fused_y.ref(), turned}, stream);
    gelu_linear_backward_input({dy.ref(), kept.ref(), pre.ref(), fused_dpre.ref(), turned}, stream);
    Array alone_pre(dtype, {R, O}), y(dtype, {R, O}), dpre(dtype, {R, I});
    linear_forward({x.ref(), kept.ref(), b.ref(), alone_pre.ref(), turned}, stream);
    gelu_forward({.x = alone_pre.ref(), .y = y.ref()}, stream);
    linear_backward_input({.dy_RO = dy.ref(), .w_OI = kept.ref(), .dx_RI = dpre.ref(), .transposed = turned}, stream);
    gelu_backward({.x = pre.ref(), .dy = dpre.ref(), .dx = dpre.ref()}, stream);
    finish(stream);
    return Outputs{fused_pre, fused_y, fused_dpre, alone_pre, y, dpre};
  };
  const Check equal = [](const Outputs& out) {
    EXPECT_TRUE(out[0] == out[3]) << "pre";
    EXPECT_TRUE(out[1] == out[4]) << "y";
    EXPECT_TRUE(out[2] == out[5]) << "dpre";
  };
  on_the_host(both, equal);
  on_gpu(machine_without_fused_products(), both, equal);
}

std::string name_of(const ::testing::TestParamInfo<LinearGeluTest::ParamType>& info) {
  const auto& [s, dtype, turned] = info.param;
  return std::to_string(s.R) + "x" + std::to_string(s.I) + "to" + std::to_string(s.O) + to_string(dtype) +
         (turned ? "transposed" : "");
}
INSTANTIATE_TEST_SUITE_P(Shapes, LinearGeluTest,
                         ::testing::Combine(::testing::ValuesIn(kShapes), ::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Bool()),
                         name_of);

TEST(LinearGeluEdgeTest, NoRowsAreNoWork) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Array x(dtype, {0, 3}), pre(dtype, {0, 2}), y(dtype, {0, 2}), w = normal(dtype, {2, 3}, "w"), b = normal(dtype, {2}, "b");
    Array wide_pre(dtype, {0, 3});
    on_every_machine_and_way(
        [&](StreamRef stream) {
          linear_gelu_forward({x.ref(), w.ref(), b.ref(), pre.ref(), y.ref()}, stream);
          gelu_linear_backward_input({y.ref(), w.ref(), wide_pre.ref(), x.ref()}, stream);
          finish(stream);
          return Outputs{pre, y, x};
        },
        [&](const Outputs& out) {
          for (const Array& a : out) EXPECT_TRUE(a.guard_is_intact());
        });
  }
}

TEST(LinearGeluEdgeTest, ShapesAndDtypesAreChecked) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array x(DType::bf16, {4, 3}), w(DType::bf16, {2, 3}), y(DType::bf16, {4, 2}), pre(DType::bf16, {4, 2});
  Array y_f32(DType::f32, {4, 2}), wide(DType::bf16, {4, 5}), x_f32(DType::f32, {4, 3});
  EXPECT_THROW(linear_gelu_forward({x.ref(), w.ref(), {}, pre.ref(), y_f32.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_gelu_forward({x.ref(), w.ref(), {}, y_f32.ref(), y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_gelu_forward({x.ref(), w.ref(), {}, wide.ref(), y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_gelu_forward({x.ref(), w.ref(), {}, {}, y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_gelu_forward({x_f32.ref(), w.ref(), {}, pre.ref(), y.ref()}, stream), ContractViolation);
  EXPECT_THROW(gelu_linear_backward_input({y.ref(), w.ref(), x_f32.ref(), x.ref()}, stream), ContractViolation);
  EXPECT_THROW(gelu_linear_backward_input({y.ref(), w.ref(), y.ref(), x.ref()}, stream), ContractViolation);
  EXPECT_THROW(gelu_linear_backward_input({y.ref(), w.ref(), x.ref(), wide.ref()}, stream), ContractViolation);
}

}  // namespace
}  // namespace strata::kernels::testing
