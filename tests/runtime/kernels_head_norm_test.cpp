#include <gtest/gtest.h>

#include "kernel_testing.h"
#include "runtime/kernels/norm.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT
using Doubles = std::vector<double>;

struct Case {
  std::int64_t R, N, K, H;
};
const std::vector<Case> kCases = {{0, 2, 1, 8},  {1, 1, 1, 1},  {5, 4, 2, 15},  {5, 2, 2, 16},
                                  {1, 3, 1, 17}, {5, 2, 1, 80}, {65, 8, 2, 64}, {4, 2, 1, 1032}};
constexpr double kEps = 1e-6;

double rstd_of(const Array& in, std::int64_t at, std::int64_t H) {
  double square = 0.0;
  for (std::int64_t i = 0; i < H; ++i) square += in.at(at + i) * in.at(at + i);
  return 1.0 / std::sqrt(square / static_cast<double>(H) + kEps);
}

TEST(HeadRmsNormForward, NormalisesQueriesAndKeysAndCopiesValues) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Case& c : kCases) {
      const std::int64_t D = (c.N + 2 * c.K) * c.H;
      const Array in = normal(dtype, {c.R, D}, "in");
      const Array wq = normal(dtype, {c.H}, "wq", 1.0, 0.3), wk = normal(dtype, {c.H}, "wk", 1.0, 0.3);
      Doubles y, rstds;
      for (std::int64_t r = 0; r < c.R; ++r)
        for (std::int64_t m = 0; m < c.N + 2 * c.K; ++m) {
          const std::int64_t at = r * D + m * c.H;
          const double rstd = m < c.N + c.K ? rstd_of(in, at, c.H) : 1.0;
          if (m < c.N + c.K) rstds.push_back(rstd);
          for (std::int64_t i = 0; i < c.H; ++i)
            y.push_back(in.at(at + i) * rstd * (m < c.N ? wq.at(i) : m < c.N + c.K ? wk.at(i) : 1.0));
        }
      on_every_machine(
          [&](StreamRef stream) {
            Array x = in, q = wq, k = wk, out(dtype, {c.R, D}), rstd(DType::f32, {c.R, c.N + c.K});
            head_rmsnorm_forward({.in_RD = x.ref(),
                                  .wq_H = q.ref(),
                                  .wk_H = k.ref(),
                                  .out_RD = out.ref(),
                                  .rstd_RM = rstd.ref(),
                                  .N = c.N,
                                  .K = c.K,
                                  .H = c.H,
                                  .eps = static_cast<float>(kEps)},
                                 stream);
            finish(stream);
            return Outputs{out, rstd};
          },
          [&](const Outputs& out) {
            expect_close(out[0], y, "out");
            expect_close(out[1], rstds, "rstd");
          });
    }
}

TEST(HeadRmsNormBackward, EqualsTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Case& c : kCases) {
      const std::int64_t D = (c.N + 2 * c.K) * c.H;
      const Array in = normal(dtype, {c.R, D}, "in"), dy = normal(dtype, {c.R, D}, "dy");
      const Array wq = normal(dtype, {c.H}, "wq", 1.0, 0.3), wk = normal(dtype, {c.H}, "wk", 1.0, 0.3);
      const Array dwq = normal(DType::f32, {c.H}, "dwq"), dwk = normal(DType::f32, {c.H}, "dwk");
      Array rstd(DType::f32, {c.R, c.N + c.K});
      Doubles dx, expected_q, expected_k;
      for (std::int64_t i = 0; i < c.H; ++i) {
        expected_q.push_back(dwq.at(i));
        expected_k.push_back(dwk.at(i));
      }
      for (std::int64_t r = 0; r < c.R; ++r)
        for (std::int64_t m = 0; m < c.N + 2 * c.K; ++m) {
          const std::int64_t at = r * D + m * c.H;
          if (m >= c.N + c.K) {
            for (std::int64_t i = 0; i < c.H; ++i) dx.push_back(dy.at(at + i));
            continue;
          }
          const Array& w = m < c.N ? wq : wk;
          const double q = rstd_of(in, at, c.H);
          rstd.set(r * (c.N + c.K) + m, q);
          // d/ds_i of sum_j g_j s_j q(s) with dq/ds_i = -q^3 s_i / H.
          double gs = 0.0;
          for (std::int64_t i = 0; i < c.H; ++i) gs += dy.at(at + i) * w.at(i) * in.at(at + i);
          for (std::int64_t i = 0; i < c.H; ++i) {
            dx.push_back(q * dy.at(at + i) * w.at(i) - q * q * q * in.at(at + i) * gs / static_cast<double>(c.H));
            (m < c.N ? expected_q : expected_k)[static_cast<std::size_t>(i)] += dy.at(at + i) * in.at(at + i) * q;
          }
        }
      on_every_machine(
          [&](StreamRef stream) {
            Array d = dy, x = in, q = wq, k = wk, inv = rstd, gq = dwq, gk = dwk;
            head_rmsnorm_backward({.dqkv_RD = d.ref(),
                                   .in_RD = x.ref(),
                                   .wq_H = q.ref(),
                                   .wk_H = k.ref(),
                                   .rstd_RM = inv.ref(),
                                   .dwq_H = gq.ref(),
                                   .dwk_H = gk.ref(),
                                   .N = c.N,
                                   .K = c.K,
                                   .H = c.H},
                                  stream);
            finish(stream);
            return Outputs{d, gq, gk};
          },
          [&](const Outputs& out) {
            expect_close(out[0], dx, "dx", dtype == DType::f32 ? 3.0 : 1.2);
            expect_close(out[1], expected_q, "dwq", 3.0);
            expect_close(out[2], expected_k, "dwk", 3.0);
          });
    }
}

}  // namespace
}  // namespace strata::kernels
