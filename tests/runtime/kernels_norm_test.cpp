#include <gtest/gtest.h>

#include "kernel_testing.h"
#include "runtime/kernels/norm.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT
using Doubles = std::vector<double>;

struct Size {
  std::int64_t R, C;
};
// The later ones are cut into several tasks and partial sums.
const std::vector<Size> kSizes = {{0, 16},  {1, 1},   {5, 1},     {1, 15}, {5, 16},   {5, 17},  {5, 80},
                                  {1, 769}, {5, 769}, {100, 769}, {33, 7}, {2, 2048}, {2100, 8}};
// Rows that a GPU does not hold in registers.
const std::vector<Size> kLongRows = {{1, 8199}, {2, 16400}};
constexpr float kEps = 1e-5f;

Doubles row_of(const Array& a, std::int64_t r, std::int64_t C) {
  Doubles row(static_cast<std::size_t>(C));
  for (std::int64_t i = 0; i < C; ++i) row[static_cast<std::size_t>(i)] = a.at(r * C + i);
  return row;
}

struct Statistics {
  double mean, rstd;
};

Statistics statistics(bool layer, const Doubles& s) {
  const auto n = static_cast<double>(s.size());
  double mean = 0.0, square = 0.0;
  if (layer)
    for (const double v : s) mean += v / n;
  for (const double v : s) square += (v - mean) * (v - mean) / n;
  return {mean, 1.0 / std::sqrt(square + static_cast<double>(kEps))};
}

// sum(dy * norm(s)) as a function of s: its derivative is what backward computes.
double inner_product(bool layer, const Doubles& s, const Doubles& w, const Doubles& dy) {
  const auto [mean, rstd] = statistics(layer, s);
  double sum = 0.0;
  for (std::size_t i = 0; i < s.size(); ++i) sum += dy[i] * (s[i] - mean) * rstd * w[i];
  return sum;
}

void forward(bool layer, const NormForwardArgs& args, StreamRef stream) {
  layer ? layernorm_forward(args, stream) : rmsnorm_forward(args, stream);
}
void backward(bool layer, const NormBackwardArgs& args, StreamRef stream) {
  layer ? layernorm_backward(args, stream) : rmsnorm_backward(args, stream);
}

struct Variant {
  DType dtype;
  bool layer, residual, bias;
};
std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool residual : {false, true}) {
      all.push_back({dtype, false, residual, false});
      all.push_back({dtype, true, residual, false});
      all.push_back({dtype, true, residual, true});
    }
  return all;
}

void check_forward(const Variant& v, Size size) {
  const auto [R, C] = size;
  const Array x = normal(v.dtype, {R, C}, "x", 0.5, 2.0);
  const Array residual = normal(v.dtype, {R, C}, "residual");
  const Array w = normal(v.dtype, {C}, "w", 1.0, 0.3);
  const Array b = normal(v.dtype, {C}, "b");
  Doubles sums, y, means, rstds;
  for (std::int64_t r = 0; r < R; ++r) {
    Doubles s = row_of(x, r, C);
    if (v.residual)
      for (std::int64_t i = 0; i < C; ++i) {
        double& sum = s[static_cast<std::size_t>(i)];
        sum = rounded(static_cast<double>(static_cast<float>(sum) + static_cast<float>(residual.at(r * C + i))), v.dtype);
      }
    const auto [mean, rstd] = statistics(v.layer, s);
    for (std::int64_t i = 0; i < C; ++i)
      y.push_back((s[static_cast<std::size_t>(i)] - mean) * rstd * w.at(i) + (v.bias ? b.at(i) : 0.0));
    sums.insert(sums.end(), s.begin(), s.end());
    means.push_back(mean);
    rstds.push_back(rstd);
  }
  on_every_machine(
      [&](StreamRef stream) {
        Array in = x, res = residual, weight = w, bias = b, out(v.dtype, {R, C}), mean(DType::f32, {R}), rstd(DType::f32, {R});
        NormForwardArgs args;
        args.x_RC = in.ref();
        args.w_C = weight.ref();
        args.y_RC = out.ref();
        args.rstd_R = rstd.ref();
        args.eps = kEps;
        if (v.layer) args.mean_R = mean.ref();
        if (v.bias) args.b_C = bias.ref();
        if (v.residual) {
          args.residual_RC = res.ref();
          args.sum_RC = res.ref();  // in place of the residual
        }
        forward(v.layer, args, stream);
        Array in2 = x, res2 = residual, out2(v.dtype, {R, C});
        args.y_RC = out2.ref();
        args.x_RC = in2.ref();
        if (v.residual) {
          args.residual_RC = res2.ref();
          args.sum_RC = in2.ref();  // in place of x
        }
        forward(v.layer, args, stream);
        finish(stream);
        EXPECT_TRUE(out == out2);
        EXPECT_TRUE(!v.residual || res == in2);
        return Outputs{out, v.residual ? res : in, mean, rstd};
      },
      [&](const Outputs& out) {
        expect_close(out[0], y, "y");
        expect_close(out[1], sums, "sum", 0.0);
        if (v.layer) expect_close(out[2], means, "mean");
        expect_close(out[3], rstds, "rstd");
      });
}

TEST(NormForward, EqualsTheReference) {
  for (const Variant& v : variants()) {
    SCOPED_TRACE(::testing::Message() << (v.layer ? "layer" : "rms") << " residual " << v.residual << " bias " << v.bias);
    for (const Size& size : kSizes) check_forward(v, size);
    if (strata::testing::kSanitized && !(v.layer && v.residual && v.bias)) continue;
    for (const Size& size : kLongRows) check_forward(v, size);
  }
}

TEST(NormForward, KeepsPrecisionFarFromZero) {
  // A one-pass variance would have lost all of its digits here.
  constexpr std::int64_t kC = 80;
  const Array x = normal(DType::f32, {1, kC}, "x", 3000.0, 1.0);
  const auto [mean, rstd] = statistics(true, row_of(x, 0, kC));
  on_every_machine(
      [&](StreamRef stream) {
        Array in = x, w(DType::f32, {kC}), y(DType::f32, {1, kC}), m(DType::f32, {1}), s(DType::f32, {1});
        layernorm_forward({.x_RC = in.ref(),
                           .residual_RC = {},
                           .sum_RC = {},
                           .w_C = w.ref(),
                           .b_C = {},
                           .y_RC = y.ref(),
                           .mean_R = m.ref(),
                           .rstd_R = s.ref(),
                           .eps = kEps},
                          stream);
        finish(stream);
        return Outputs{s};
      },
      [&, expected = rstd](const Outputs& out) { expect_close(out[0], {expected}, "rstd", 10.0); });
  EXPECT_NEAR(mean, 3000.0, 1.0);
}

void check_backward(const Variant& v, Size size, bool in_place_of_dy) {
  const auto [R, C] = size;
  const Array s = normal(v.dtype, {R, C}, "s", 0.5, 2.0);
  const Array dy = normal(v.dtype, {R, C}, "dy");
  const Array other = normal(v.dtype, {R, C}, "dresidual");
  const Array w = normal(v.dtype, {C}, "w", 1.0, 0.3);
  const Array dw = normal(DType::f32, {C}, "dw");
  const Array db = normal(DType::f32, {C}, "db");
  Array mean(DType::f32, {R}), rstd(DType::f32, {R});
  Doubles expected_dw = row_of(dw, 0, C), expected_db = row_of(db, 0, C);
  const Doubles weights = row_of(w, 0, C);
  for (std::int64_t r = 0; r < R; ++r) {
    const Doubles row = row_of(s, r, C);
    const auto [m, q] = statistics(v.layer, row);
    mean.set(r, m);
    rstd.set(r, q);
    for (std::int64_t i = 0; i < C; ++i) {
      expected_dw[static_cast<std::size_t>(i)] += dy.at(r * C + i) * (row[static_cast<std::size_t>(i)] - m) * q;
      expected_db[static_cast<std::size_t>(i)] += dy.at(r * C + i);
    }
  }
  on_every_machine(
      [&](StreamRef stream) {
        Array in = s, d = dy, res = other, weight = w, mu = mean, q = rstd, gw = dw, gb = db, dx(v.dtype, {R, C});
        NormBackwardArgs args;
        args.dy_RC = d.ref();
        args.s_RC = in.ref();
        args.w_C = weight.ref();
        args.rstd_R = q.ref();
        if (v.layer) args.mean_R = mu.ref();
        if (v.residual) args.dresidual_RC = res.ref();
        args.dx_RC = in_place_of_dy ? d.ref() : v.residual ? res.ref() : dx.ref();
        args.dw_C = gw.ref();
        if (v.bias) args.db_C = gb.ref();
        backward(v.layer, args, stream);
        finish(stream);
        return Outputs{in_place_of_dy ? d : v.residual ? res : dx, gw, gb};
      },
      [&](const Outputs& out) {
        expect_close(out[1], expected_dw, "dw", 3.0);
        if (v.bias) expect_close(out[2], expected_db, "db", 3.0);
        const strata::testing::Tolerance allowed = strata::testing::kernel_tolerance(v.dtype);
        for (std::int64_t r = 0; r < R; r += std::max<std::int64_t>(1, R - 1)) {  // first and last row
          const Doubles row = row_of(s, r, C);
          const Doubles d = row_of(dy, r, C);
          const auto f = [&](const Doubles& at) { return inner_product(v.layer, at, weights, d); };
          const std::int64_t step = C > 1000 ? 397 : C > 100 ? 37 : 1;  // the reference takes time as the square of the length
          for (std::int64_t i = 0; i < C; i += step) {
            const double through = v.residual ? other.at(r * C + i) : 0.0;
            const double expected = derivative(f, row, static_cast<std::size_t>(i)) + through;
            ASSERT_NEAR(out[0].at(r * C + i), expected, 3e-6 + allowed.relative * std::abs(expected)) << r << ", " << i;
          }
        }
      });
}

TEST(NormBackward, EqualsTheReference) {
  bool in_place_of_dy = false;
  for (const Variant& v : variants())
    for (const Size& size : kSizes) {  // an odd number of sizes: every other variant has the other half in place
      in_place_of_dy = !in_place_of_dy;
      SCOPED_TRACE(::testing::Message() << (v.layer ? "layer" : "rms") << " residual " << v.residual << " bias " << v.bias
                                        << " " << to_string(v.dtype) << " " << size.R << " x " << size.C);
      check_backward(v, size, in_place_of_dy);
    }
}

TEST(NormBackward, OfLongRowsEqualsTheReference) {
  for (const Variant& v : variants()) {
    if (strata::testing::kSanitized && !(v.layer && v.residual && v.bias)) continue;
    SCOPED_TRACE(::testing::Message() << (v.layer ? "layer" : "rms") << " residual " << v.residual << " bias " << v.bias << " "
                                      << to_string(v.dtype));
    for (const Size& size : kLongRows) check_backward(v, size, !v.residual);
  }
}

TEST(Norm, RefusesWrongArguments) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array x(DType::f32, {2, 8}), w(DType::f32, {8}), short_w(DType::f32, {7}), half_w(DType::bf16, {8}), q(DType::f32, {2});
  const NormForwardArgs good = {.x_RC = x.ref(),
                                .residual_RC = {},
                                .sum_RC = {},
                                .w_C = w.ref(),
                                .b_C = {},
                                .y_RC = x.ref(),
                                .mean_R = q.ref(),
                                .rstd_R = q.ref(),
                                .eps = kEps};
  NormForwardArgs bad = good;
  bad.w_C = short_w.ref();
  EXPECT_THROW(rmsnorm_forward(bad, stream), ContractViolation);
  bad = good;
  bad.w_C = half_w.ref();
  EXPECT_THROW(layernorm_forward(bad, stream), ContractViolation);
  bad = good;
  bad.residual_RC = x.ref();
  EXPECT_THROW(rmsnorm_forward(bad, stream), ContractViolation) << "residual without sum";
  bad = good;
  bad.b_C = w.ref();
  EXPECT_THROW(rmsnorm_forward(bad, stream), ContractViolation) << "rmsnorm with bias";
}

}  // namespace
}  // namespace strata::kernels
