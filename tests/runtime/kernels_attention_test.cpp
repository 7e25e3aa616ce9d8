#include <limits>

#include "kernel_testing.h"
#include "runtime/kernels/attention.h"

namespace strata::kernels::testing {
namespace {

struct AttentionShape {
  std::int64_t B, T, N, K, H;
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(H)); }
  std::int64_t row() const { return (N + 2 * K) * H; }
  std::int64_t query(std::int64_t b, std::int64_t t, std::int64_t n) const { return (b * T + t) * row() + n * H; }
  std::int64_t key(std::int64_t b, std::int64_t t, std::int64_t k) const { return query(b, t, N + k); }
  std::int64_t value(std::int64_t b, std::int64_t t, std::int64_t k) const { return query(b, t, N + K + k); }
  std::int64_t out(std::int64_t b, std::int64_t t, std::int64_t n) const { return ((b * T + t) * N + n) * H; }
};

using Doubles = std::vector<double>;

Doubles doubles(std::int64_t n) { return Doubles(static_cast<std::size_t>(n)); }
double& el(Doubles& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; }
double el(const Doubles& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; }
Doubles values_of(const Array& a) {
  Doubles v = doubles(a.numel());
  for (std::int64_t i = 0; i < a.numel(); ++i) el(v, i) = a.at(i);
  return v;
}

double dot(const Doubles& a, std::int64_t i, const Doubles& b, std::int64_t j, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t h = 0; h < n; ++h) sum += el(a, i + h) * el(b, j + h);
  return sum;
}
void add_scaled(Doubles& to, std::int64_t i, double factor, const Doubles& from, std::int64_t j, std::int64_t n) {
  for (std::int64_t h = 0; h < n; ++h) el(to, i + h) += factor * el(from, j + h);
}

// Everything in double, one query at a time.
struct Reference {
  Doubles o, lse, dqkv;
  Reference(const AttentionShape& s, const Array& qkv_array, const Array& do_array)
      : o(doubles(do_array.numel())), lse(doubles(s.B * s.N * s.T)), dqkv(doubles(qkv_array.numel())) {
    const Doubles qkv = values_of(qkv_array), d_o = values_of(do_array);
    for (std::int64_t b = 0; b < s.B; ++b)
      for (std::int64_t n = 0; n < s.N; ++n)
        for (std::int64_t t = 0; t < s.T; ++t) one_query(s, qkv, d_o, b, n, t);
  }

 private:
  void one_query(const AttentionShape& s, const Doubles& qkv, const Doubles& d_o, std::int64_t b, std::int64_t n,
                 std::int64_t t) {
    const std::int64_t k = n / (s.N / s.K), q = s.query(b, t, n), out = s.out(b, t, n);
    Doubles p = doubles(t + 1);
    double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (std::int64_t j = 0; j <= t; ++j) top = std::max(top, el(p, j) = s.scale() * dot(qkv, q, qkv, s.key(b, j, k), s.H));
    for (std::int64_t j = 0; j <= t; ++j) sum += el(p, j) = std::exp(el(p, j) - top);
    el(lse, (b * s.N + n) * s.T + t) = top + std::log(sum);
    for (std::int64_t j = 0; j <= t; ++j) add_scaled(o, out, el(p, j) /= sum, qkv, s.value(b, j, k), s.H);
    const double delta = dot(d_o, out, o, out, s.H);
    for (std::int64_t j = 0; j <= t; ++j) {
      const double dp = dot(d_o, out, qkv, s.value(b, j, k), s.H);
      const double ds = el(p, j) * (dp - delta) * s.scale();
      add_scaled(dqkv, q, ds, qkv, s.key(b, j, k), s.H);
      add_scaled(dqkv, s.key(b, j, k), ds, qkv, q, s.H);
      add_scaled(dqkv, s.value(b, j, k), el(p, j), d_o, out, s.H);
    }
  }
};

// Largest error, and root mean square error, over the root mean square of what was expected.
void expect_near(const Array& actual, const Doubles& expected, double largest, double mean, const char* what) {
  EXPECT_TRUE(actual.guard_is_intact()) << what << ": wrote behind its end";
  double size = 0.0, error = 0.0, worst = 0.0;
  for (std::int64_t i = 0; i < actual.numel(); ++i) {
    const double e = actual.at(i) - el(expected, i);
    ASSERT_TRUE(std::isfinite(actual.at(i))) << what << "[" << i << "]";
    size += el(expected, i) * el(expected, i);
    error += e * e;
    worst = std::max(worst, std::abs(e));
  }
  const double n = static_cast<double>(std::max<std::int64_t>(1, actual.numel()));
  const double scale = std::sqrt(size / n) + 1e-30;
  EXPECT_LE(std::sqrt(error / n), mean * scale) << what;
  EXPECT_LE(worst, largest * scale) << what;
}

void expect_near(const Array& actual, const Doubles& expected, const char* what) {
  const strata::testing::AttentionTolerance tolerance = strata::testing::attention_tolerance(actual.dtype());
  expect_near(actual, expected, tolerance.largest, tolerance.mean, what);
}

// The arguments of a backward with the scratch they need, full of NaN.
class WithScratch {
 public:
  WithScratch(const AttentionBackwardArgs& args, StreamRef stream)
      : args_(args),
        arena_(Tier::cpu, std::size_t{64} << 20, stream.device()),
        scratch_(arena_, Category::workspace, DType::f32, attention_backward_scratch(args, stream.device()), "scratch") {
    args_.scratch_SW = scratch_;
    if (scratch_) std::memset(args_.scratch_SW.data, 0xff, args_.scratch_SW.bytes());
  }
  operator const AttentionBackwardArgs&() const { return args_; }  // NOLINT: implicit by design

 private:
  AttentionBackwardArgs args_;
  TierArena arena_;  // in reach of the stream's device
  Tensor scratch_;
};

class AttentionTest : public ::testing::TestWithParam<std::tuple<AttentionShape, DType>> {
 protected:
  const AttentionShape s = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  Array qkv = normal(dtype, {s.B * s.T, s.row()}, "qkv");
  Array d_o = normal(dtype, {s.B * s.T, s.N* s.H}, "do");
  const Reference reference{s, qkv, d_o};
  float scale() const { return static_cast<float>(s.scale()); }
};

TEST_P(AttentionTest, ForwardAgreesWithDoubles) {
  on_every_machine(
      [&](StreamRef stream) {
        Array o(dtype, d_o.shape()), lse(DType::f32, {s.B, s.N, s.T});
        attention_forward({qkv.ref(), o.ref(), lse.ref(), s.B, s.T, s.N, s.K, s.H, scale()}, stream);
        finish(stream);
        return Outputs{o, lse};
      },
      [&](const Outputs& out) {
        expect_near(out[0], reference.o, "o");
        expect_near(out[1], reference.lse, "lse");
      });
}

TEST_P(AttentionTest, BackwardAgreesWithDoubles) {
  Array o(dtype, d_o.shape()), lse(DType::f32, {s.B, s.N, s.T});
  for (std::int64_t i = 0; i < o.numel(); ++i) o.set(i, el(reference.o, i));
  for (std::int64_t i = 0; i < lse.numel(); ++i) lse.set(i, el(reference.lse, i));
  on_every_machine(
      [&](StreamRef stream) {
        Array dqkv = normal(dtype, qkv.shape(), "what was there before");
        const WithScratch args({qkv.ref(), o.ref(), d_o.ref(), lse.ref(), dqkv.ref(), s.B, s.T, s.N, s.K, s.H, scale(), {}},
                               stream);
        attention_backward(args, stream);
        finish(stream);
        return Outputs{dqkv};
      },
      [&](const Outputs& out) { expect_near(out[0], reference.dqkv, "dqkv"); });
}

// Around the tile of 64 queries; head sizes of real models and awkward ones; 1, 3 and 4 query heads to a key head.
const std::vector<AttentionShape> kShapes = {{1, 1, 1, 1, 1},    {2, 1, 4, 1, 8},    {1, 7, 3, 1, 17},   {2, 7, 2, 2, 6},
                                             {1, 63, 2, 1, 20},  {1, 64, 1, 1, 64},  {2, 65, 3, 3, 5},   {1, 65, 4, 1, 80},
                                             {1, 66, 1, 1, 96},  {1, 130, 3, 1, 17}, {2, 130, 2, 1, 32}, {1, 67, 1, 1, 128},
                                             {1, 65, 1, 1, 256}, {1, 130, 4, 2, 64}};

std::string name_of(const ::testing::TestParamInfo<AttentionTest::ParamType>& info) {
  const auto& [s, dtype] = info.param;
  return "B" + std::to_string(s.B) + "T" + std::to_string(s.T) + "N" + std::to_string(s.N) + "K" + std::to_string(s.K) + "H" +
         std::to_string(s.H) + to_string(dtype);
}
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Combine(::testing::ValuesIn(kShapes), ::testing::Values(DType::f32, DType::bf16)), name_of);

// What a vendor's library takes: heads of models, grouped and not, lengths around its tiles.
class LibraryAttentionTest : public ::testing::TestWithParam<AttentionShape> {
 protected:
  static constexpr std::size_t kScratch = std::size_t{1} << 20;  // less than the larger shapes want at once
  void SetUp() override {
    const auto driver = strata::testing::library_attention_driver();
    if (!driver.ok()) GTEST_SKIP() << "no cuDNN: " << driver.status().message();
  }
};

TEST_P(LibraryAttentionTest, BothDirectionsAgreeWithDoublesAndWithThemselves) {
  const AttentionShape s = GetParam();
  Array qkv = normal(DType::bf16, {s.B * s.T, s.row()}, "qkv"), d_o = normal(DType::bf16, {s.B * s.T, s.N * s.H}, "do");
  const Reference reference(s, qkv, d_o);
  const auto scale = static_cast<float>(s.scale());
  strata::testing::GpuBench bench({"library", 1, [](int) { return strata::testing::library_attention_driver().value(); }});
  StreamRef stream = bench.stream();
  stream.queue().set_scratch(stream.queue().scratch().first(kScratch));
  const Status taken = prepare_attention({s.B, s.T, s.N, s.K, s.H, scale}, stream);
  if (s.H == 256 && !taken.ok()) GTEST_SKIP() << taken.message();
  ASSERT_TRUE(taken.ok()) << taken.message();
  std::vector<Outputs> runs;
  for (int run = 0; run < 2; ++run) {
    Array o(DType::bf16, d_o.shape()), lse(DType::f32, {s.B, s.N, s.T}), dqkv = normal(DType::bf16, qkv.shape(), "before");
    attention_forward({qkv.ref(), o.ref(), lse.ref(), s.B, s.T, s.N, s.K, s.H, scale}, stream);
    const WithScratch args({qkv.ref(), o.ref(), d_o.ref(), lse.ref(), dqkv.ref(), s.B, s.T, s.N, s.K, s.H, scale, {}}, stream);
    attention_backward(args, stream);
    finish(stream);
    runs.push_back({o, lse, dqkv});
  }
  EXPECT_TRUE(runs[0] == runs[1]) << "two runs differ";
  expect_near(runs[0][0], reference.o, "o");
  expect_near(runs[0][1], reference.lse, 1e-3, 1e-4, "lse");
  expect_near(runs[0][2], reference.dqkv, "dqkv");
}

INSTANTIATE_TEST_SUITE_P(Shapes, LibraryAttentionTest,
                         ::testing::Values(AttentionShape{2, 64, 2, 2, 64}, AttentionShape{1, 65, 4, 1, 80},
                                           AttentionShape{1, 130, 2, 1, 96}, AttentionShape{3, 257, 4, 2, 128},
                                           AttentionShape{1, 129, 2, 2, 256}),
                         [](const auto& test) {
                           const AttentionShape& s = test.param;
                           return "B" + std::to_string(s.B) + "T" + std::to_string(s.T) + "N" + std::to_string(s.N) + "K" +
                                  std::to_string(s.K) + "H" + std::to_string(s.H);
                         });

TEST(LibraryAttention, RefusesWithAStatusBeforeTheRunAndInTheQueueDuringIt) {
  const auto driver = strata::testing::library_attention_driver();
  if (!driver.ok()) GTEST_SKIP() << "no cuDNN: " << driver.status().message();
  const auto machine =
      strata::testing::GpuMachine{"library", 1, [](int) { return strata::testing::library_attention_driver().value(); }};
  const auto refused = [&](const AttentionShape& s, DType dtype, std::size_t scratch) {
    strata::testing::GpuBench bench(machine);
    StreamRef stream = bench.stream();
    stream.queue().set_scratch(stream.queue().scratch().first(scratch));
    if (dtype == DType::bf16) {
      EXPECT_EQ(prepare_attention({1, s.T, s.N, s.K, s.H, 0.5f}, stream).code(), Code::unsupported) << s.H;
    }
    Array qkv(dtype, {s.T, s.row()}), o(dtype, {s.T, s.N * s.H}), lse(DType::f32, {1, s.N, s.T}), dqkv = qkv;
    const WithScratch args({qkv.ref(), o.ref(), o.ref(), lse.ref(), dqkv.ref(), 1, s.T, s.N, s.K, s.H, 0.5f, {}}, stream);
    attention_backward(args, stream);
    EXPECT_EQ(stream.synchronize().code(), Code::unsupported) << s.H;
  };
  refused({1, 16, 2, 1, 12}, DType::bf16, 1 << 20);
  refused({1, 16, 2, 1, 16}, DType::f32, 1 << 20);
  refused({1, 256, 2, 1, 64}, DType::bf16, 4096);
}

// Scores of several hundred, whose exponentials a softmax without a running maximum could not hold; later keys larger.
TEST(AttentionEdgeTest, LargeAndGrowingScoresStayFinite) {
  const AttentionShape s = {1, 130, 1, 1, 16};
  Array qkv = normal(DType::f32, {s.T, s.row()}, "qkv");
  for (std::int64_t t = 0; t < s.T; ++t) {
    for (std::int64_t h = 0; h < s.H; ++h) {
      qkv.set(s.query(0, t, 0) + h, 10.0);
      qkv.set(s.key(0, t, 0) + h, static_cast<double>(t) / 8.0 + qkv.at(s.key(0, t, 0) + h) / 16.0);
    }
  }
  Array d_o = normal(DType::f32, {s.T, s.H}, "do");
  const Reference reference(s, qkv, d_o);
  on_every_machine(
      [&](StreamRef stream) {
        Array o(DType::f32, d_o.shape()), lse(DType::f32, {1, 1, s.T}), dqkv(DType::f32, qkv.shape());
        const auto scale = static_cast<float>(s.scale());
        attention_forward({qkv.ref(), o.ref(), lse.ref(), 1, s.T, 1, 1, s.H, scale}, stream);
        const WithScratch args({qkv.ref(), o.ref(), d_o.ref(), lse.ref(), dqkv.ref(), 1, s.T, 1, 1, s.H, scale, {}}, stream);
        attention_backward(args, stream);
        finish(stream);
        return Outputs{o, lse, dqkv};
      },
      [&](const Outputs& out) {
        expect_near(out[0], reference.o, 1e-3, 1e-4, "o");
        expect_near(out[1], reference.lse, 1e-5, 1e-6, "lse");
        expect_near(out[2], reference.dqkv, 3e-3, 3e-4, "dqkv");
      });
}

TEST(AttentionEdgeTest, LaterTokensDoNotReachEarlierOutputsAndNaNStaysNaN) {
  const AttentionShape s = {1, 70, 2, 1, 8};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Array qkv = normal(dtype, {s.T, s.row()}, "qkv");
    Array changed = qkv;
    for (std::int64_t i = 0; i < s.row(); ++i) changed.set((s.T - 1) * s.row() + i, std::numeric_limits<double>::quiet_NaN());
    on_every_machine(
        [&](StreamRef stream) {
          Array o(dtype, {s.T, s.N * s.H}), o_changed = o, lse(DType::f32, {1, s.N, s.T});
          attention_forward({qkv.ref(), o.ref(), lse.ref(), 1, s.T, s.N, s.K, s.H, 0.5f}, stream);
          attention_forward({changed.ref(), o_changed.ref(), lse.ref(), 1, s.T, s.N, s.K, s.H, 0.5f}, stream);
          finish(stream);
          return Outputs{o, o_changed};
        },
        [&](const Outputs& out) {
          for (std::int64_t i = 0; i < s.out(0, 64, 0); ++i) ASSERT_EQ(out[0].at(i), out[1].at(i)) << i;  // the first tile
          for (std::int64_t i = s.out(0, s.T - 1, 0); i < out[1].numel(); ++i) ASSERT_TRUE(std::isnan(out[1].at(i))) << i;
        });
  }
}

TEST(AttentionEdgeTest, NoTokensAreNoWork) {
  Device device(Backend::host, 2);
  Stream stream(device, "compute");
  Array qkv(DType::f32, {0, 12}), o(DType::f32, {0, 4}), lse(DType::f32, {2, 1, 0}), no_batch(DType::f32, {0, 1, 3});
  attention_forward({qkv.ref(), o.ref(), lse.ref(), 2, 0, 1, 1, 4, 0.5f}, stream);
  const WithScratch args({qkv.ref(), o.ref(), o.ref(), lse.ref(), qkv.ref(), 2, 0, 1, 1, 4, 0.5f, {}}, stream);
  attention_backward(args, stream);
  attention_forward({qkv.ref(), o.ref(), no_batch.ref(), 0, 3, 1, 1, 4, 0.5f}, stream);
  finish(stream);
}

TEST(AttentionEdgeTest, ShapesAndDtypesAreChecked) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array qkv(DType::f32, {3, 16}), o(DType::f32, {3, 8}), o_bf16(DType::bf16, {3, 8}), lse(DType::f32, {1, 2, 3});
  const AttentionForwardArgs good = {qkv.ref(), o.ref(), lse.ref(), 1, 3, 2, 1, 4, 0.5f};
  const auto with = [&](auto change) {
    AttentionForwardArgs args = good;
    change(args);
    return args;
  };
  attention_forward(good, stream);
  EXPECT_THROW(attention_forward(with([](auto& a) { a.N = 3; }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([](auto& a) { a.K = 2; }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([](auto& a) { a.K = 0; }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([](auto& a) { a.T = 4; }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([](auto& a) { a.scale = 0.0f; }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([&](auto& a) { a.o_RE = o_bf16.ref(); }), stream), ContractViolation);
  EXPECT_THROW(attention_forward(with([&](auto& a) { a.lse_BNT = o.ref(); }), stream), ContractViolation);
  EXPECT_THROW(attention_backward({qkv.ref(), o.ref(), o_bf16.ref(), lse.ref(), qkv.ref(), 1, 3, 2, 1, 4, 0.5f, {}}, stream),
               ContractViolation);
  EXPECT_THROW(attention_backward({qkv.ref(), o.ref(), o.ref(), lse.ref(), qkv.ref(), 1, 3, 2, 1, 4, 0.5f, {}}, stream),
               ContractViolation)
      << "without scratch";
  finish(stream);
}

TEST(AttentionEdgeTest, ScratchIsWhatTheHeaderSaysOnEveryMachine) {
  AttentionBackwardArgs args;
  args.B = 3, args.T = 8192, args.N = 8, args.K = 2, args.H = 128;
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    ASSERT_TRUE(set_isa(isa).ok());
    for (const std::int64_t H : {128, 12}) {
      args.H = H;
      const std::int64_t width = (H + 15) / 16 * 16;
      const std::int64_t bytes = 48 * 1024 + 512 * (3 * width + 2 * width) + 8 * args.T * width;
      const Shape shape = attention_backward_scratch(args, Device(Backend::dry, 4));
      EXPECT_EQ(shape[0], 4);
      EXPECT_LE(shape[1] * 4, bytes) << to_string(isa);
      EXPECT_GE(shape[1] * 4, 8 * args.T * width);
      EXPECT_EQ(shape, attention_backward_scratch(args, Device(Backend::host, 4)));
    }
  }
  ASSERT_TRUE(set_isa(before).ok());
  EXPECT_EQ(attention_backward_scratch(args, Device(Backend::dry, 100))[0], 6) << "one for each head that is a task";
}

}  // namespace
}  // namespace strata::kernels::testing
