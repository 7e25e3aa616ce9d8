#include <filesystem>

#include "kernel_testing.h"
#include "runtime/kernels/gemm.h"
#include "runtime/kernels/linear.h"

namespace strata::kernels::testing {
namespace {

// Sums of `terms` products of values of order 1.
double sum_factor(std::int64_t terms) { return 1.0 + std::sqrt(static_cast<double>(terms)); }

struct LinearShape {
  std::int64_t R, I, O;
};

// 1, primes, one more and one less than a block, more than one tile in every direction of some product; inner sums of one, two
// and more than two pieces of 512.
const std::vector<LinearShape> kShapes = {{1, 1, 1},    {1, 7, 13},     {2, 3, 1},     {17, 31, 37},   {64, 64, 64},
                                          {65, 63, 33}, {127, 5, 11},   {129, 40, 50}, {130, 70, 401}, {130, 401, 70},
                                          {20, 9, 401}, {521, 37, 397}, {3, 512, 4},   {4, 1024, 2},   {5, 1030, 3}};

// Shape, dtype, and whether the weight lies as (in, out).
class LinearTest : public ::testing::TestWithParam<std::tuple<LinearShape, DType, bool>> {
 protected:
  const LinearShape shape = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  const bool turned = std::get<2>(GetParam());
  const std::int64_t R = shape.R, I = shape.I, O = shape.O;
  Array x = normal(dtype, {R, I}, "x");
  Array w = normal(dtype, {O, I}, "w");
  Array b = normal(dtype, {O}, "b");
  Array dy = normal(dtype, {R, O}, "dy");
  Array stored(const Array& matrix) const { return turned ? transposed(matrix) : matrix; }
};

std::vector<double> product_forward(const Array& x, const Array& w, const Array* b, const LinearShape& s) {
  std::vector<double> y(static_cast<std::size_t>(s.R * s.O));
  for (std::int64_t r = 0; r < s.R; ++r) {
    for (std::int64_t o = 0; o < s.O; ++o) {
      double sum = b != nullptr ? b->at(o) : 0.0;
      for (std::int64_t i = 0; i < s.I; ++i) sum += x.at(r * s.I + i) * w.at(o * s.I + i);
      y[static_cast<std::size_t>(r * s.O + o)] = sum;
    }
  }
  return y;
}

TEST_P(LinearTest, ForwardIsTheProductPlusBias) {
  for (const bool bias : {false, true}) {
    for (const DType result : {dtype, DType::f32}) {
      if (bias && result != dtype) continue;
      const auto expected = product_forward(x, w, bias ? &b : nullptr, shape);
      on_every_machine(
          [&](StreamRef stream) {
            Array y = normal(result, {R, O}, "what was there before"), kept = stored(w);
            linear_forward({x.ref(), kept.ref(), bias ? ConstTensorRef(b.ref()) : ConstTensorRef(), y.ref(), turned}, stream);
            finish(stream);
            return Outputs{y};
          },
          [&](const Outputs& out) { expect_close(out[0], expected, "y", sum_factor(I)); });
    }
  }
}

TEST_P(LinearTest, BackwardInputOverwritesOrAccumulates) {
  const Array before = normal(dtype, {R, I}, "dx before");
  for (const bool accumulate : {false, true}) {
    std::vector<double> expected(static_cast<std::size_t>(R * I));
    for (std::int64_t r = 0; r < R; ++r) {
      for (std::int64_t i = 0; i < I; ++i) {
        double sum = accumulate ? before.at(r * I + i) : 0.0;
        for (std::int64_t o = 0; o < O; ++o) sum += dy.at(r * O + o) * w.at(o * I + i);
        expected[static_cast<std::size_t>(r * I + i)] = sum;
      }
    }
    on_every_machine(
        [&](StreamRef stream) {
          Array dx = before, kept = stored(w);
          linear_backward_input({dy.ref(), kept.ref(), dx.ref(), accumulate, turned}, stream);
          finish(stream);
          return Outputs{dx};
        },
        [&](const Outputs& out) { expect_close(out[0], expected, "dx", sum_factor(O)); });
  }
}

TEST_P(LinearTest, BackwardWeightAccumulatesOrOverwrites) {
  const Array dw_before = normal(DType::f32, {O, I}, "dw before");
  const Array db_before = normal(DType::f32, {O}, "db before");
  for (const bool accumulate : {false, true}) {
    std::vector<double> dw_expected(static_cast<std::size_t>(O * I)), db_expected(static_cast<std::size_t>(O));
    for (std::int64_t o = 0; o < O; ++o) {
      double bias_sum = accumulate ? db_before.at(o) : 0.0;
      for (std::int64_t r = 0; r < R; ++r) bias_sum += dy.at(r * O + o);
      db_expected[static_cast<std::size_t>(o)] = bias_sum;
      for (std::int64_t i = 0; i < I; ++i) {
        double sum = accumulate ? dw_before.at(o * I + i) : 0.0;
        for (std::int64_t r = 0; r < R; ++r) sum += dy.at(r * O + o) * x.at(r * I + i);
        dw_expected[static_cast<std::size_t>(o * I + i)] = sum;
      }
    }
    for (const bool bias : {false, true}) {
      on_every_machine(
          [&](StreamRef stream) {
            Array dw = stored(dw_before), db = db_before;
            linear_backward_weight({dy.ref(), x.ref(), dw.ref(), bias ? db.ref() : TensorRef(), accumulate, turned}, stream);
            finish(stream);
            return Outputs{dw, db};
          },
          [&](const Outputs& out) {
            EXPECT_TRUE(out[0].guard_is_intact());
            expect_close(turned ? transposed(out[0]) : out[0], dw_expected, "dw", sum_factor(R));
            if (bias)
              expect_close(out[1], db_expected, "db", sum_factor(R));
            else
              EXPECT_TRUE(out[1] == db_before) << "no bias was given";
          });
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<LinearTest::ParamType>& info) {
  const auto& [s, dtype, turned] = info.param;
  return std::to_string(s.R) + "x" + std::to_string(s.I) + "to" + std::to_string(s.O) + to_string(dtype) +
         (turned ? "transposed" : "");
}
INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         ::testing::Combine(::testing::ValuesIn(kShapes), ::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Bool()),
                         name_of);

TEST(LinearEdgeTest, NoRowsLeaveOutputsAloneButZeroWhatIsOverwritten) {
  Device device(Backend::host, 2);
  Stream stream(device, "compute");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Array x(dtype, {0, 3}), y(dtype, {0, 2}), w = normal(dtype, {2, 3}, "w");
    Array dw = normal(DType::f32, {2, 3}, "dw"), db = normal(DType::f32, {2}, "db");
    const Array dw_before = dw, db_before = db;
    linear_forward({x.ref(), w.ref(), {}, y.ref()}, stream);
    linear_backward_input({y.ref(), w.ref(), x.ref()}, stream);
    linear_backward_weight({y.ref(), x.ref(), dw.ref(), db.ref()}, stream);
    finish(stream);
    EXPECT_TRUE(dw == dw_before && db == db_before);
    linear_backward_weight({y.ref(), x.ref(), dw.ref(), db.ref(), false}, stream);
    finish(stream);
    EXPECT_TRUE(dw == Array(DType::f32, {2, 3}) && db == Array(DType::f32, {2}));
    Array turned = normal(DType::f32, {3, 2}, "dw transposed");
    linear_backward_weight({y.ref(), x.ref(), turned.ref(), {}, false, true}, stream);
    finish(stream);
    EXPECT_TRUE(turned == Array(DType::f32, {3, 2}));
  }
}

TEST(LinearEdgeTest, ShapesAndDtypesAreChecked) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array x(DType::f32, {4, 3}), w(DType::f32, {2, 3}), y(DType::f32, {4, 2}), b(DType::f32, {2});
  Array w_bf16(DType::bf16, {2, 3}), y_bf16(DType::bf16, {4, 2}), wide(DType::f32, {2, 5}), no_outputs(DType::f32, {0, 3});
  EXPECT_THROW(linear_forward({x.ref(), w_bf16.ref(), {}, y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_forward({x.ref(), w.ref(), {}, y_bf16.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_forward({x.ref(), wide.ref(), {}, y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_forward({x.ref(), no_outputs.ref(), {}, y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_forward({x.ref(), w.ref(), x.ref(), y.ref()}, stream), ContractViolation);
  Array x_bf16(DType::bf16, {4, 3}), b_bf16(DType::bf16, {2});
  EXPECT_THROW(linear_forward({x_bf16.ref(), w_bf16.ref(), b_bf16.ref(), y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_backward_input({y.ref(), w.ref(), y.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_backward_weight({y.ref(), x.ref(), w_bf16.ref(), {}}, stream), ContractViolation);
  EXPECT_THROW(linear_backward_weight({y.ref(), x.ref(), w.ref(), x.ref()}, stream), ContractViolation);
  EXPECT_THROW(linear_forward({x.ref(), w.ref(), {}, y.ref(), true}, stream), ContractViolation) << "w is (out, in)";
  EXPECT_THROW(linear_backward_input({y.ref(), w.ref(), x.ref(), false, true}, stream), ContractViolation);
  EXPECT_THROW(linear_backward_weight({y.ref(), x.ref(), w.ref(), {}, true, true}, stream), ContractViolation);
  Array turned(DType::f32, {3, 2});
  EXPECT_THROW(linear_forward({x.ref(), turned.ref(), {}, y.ref()}, stream), ContractViolation) << "w is (in, out)";
}

#if defined(__linux__)
std::size_t threads_of_this_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

// The library's own threads would spin beside ours.
TEST(LinearEdgeTest, TheLibraryStartsNoThreads) {
  Device device(Backend::host, 2);
  Stream stream(device, "compute");
  const std::size_t before = threads_of_this_process();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Array x = normal(dtype, {600, 300}, "x"), w = normal(dtype, {400, 300}, "w");
    Array y(dtype, {600, 400}), dw(DType::f32, {400, 300});
    linear_forward({x.ref(), w.ref(), {}, y.ref()}, stream);
    linear_backward_input({y.ref(), w.ref(), x.ref()}, stream);
    linear_backward_weight({y.ref(), x.ref(), dw.ref(), {}}, stream);
    finish(stream);
  }
  EXPECT_EQ(threads_of_this_process(), before);
}
#endif

}  // namespace
}  // namespace strata::kernels::testing
