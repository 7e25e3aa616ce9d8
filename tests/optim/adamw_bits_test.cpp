// Every body of adamw_update gives the same bits, whatever the length, alignment and cutting.
// Mutations caught: a * b + c instead of fma in one body, a reciprocal estimate instead of division, NaN not canonicalised,
// rounding to bf16 by truncation, a tail mask one too long or short, flush to zero, p16 streamed to the wrong line.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "optim/adamw.h"
#include "runtime/kernels/isa.h"
#include "runtime/status.h"

namespace strata {
namespace {

constexpr std::uint32_t kCanonicalNaN = 0x7fc00000u;

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

// Any bit pattern: random ones (infinities, NaNs of both signs, denormals and huge values among them) and ordinary values.
class Values {
 public:
  explicit Values(std::uint64_t seed) : state_(seed) {}
  std::uint32_t next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 32);
  }
  float any() {
    static constexpr std::uint32_t kSpecial[] = {0u,          0x80000000u, 0x00000001u, 0x807fffffu, 0x00800000u, 0x7f7fffffu,
                                                 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff812345u};
    const std::uint32_t kind = next() % 8;
    if (kind == 0) return std::bit_cast<float>(kSpecial[next() % std::size(kSpecial)]);
    if (kind == 1) return std::bit_cast<float>(next());
    return ordinary();
  }
  float ordinary() {
    return (static_cast<float>(next() >> 8) * 0x1p-23f - 1.0f) * std::exp2(static_cast<float>(next() % 60) - 40.0f);
  }

 private:
  std::uint64_t state_;
};

// Guarded arrays: `offset` elements of misalignment and 64 sentinels on each side.
template <class T>
class Guarded {
 public:
  static constexpr std::size_t kGuard = 64;
  Guarded(std::size_t n, std::size_t offset, T sentinel) : n_(n), all_(n + 2 * kGuard + 64, sentinel), sentinel_(sentinel) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(all_.data()) % 64;
    begin_ = kGuard + (64 - misaligned) % 64 / sizeof(T) + offset % (64 / sizeof(T));
    if (begin_ + n_ + kGuard > all_.size()) all_.resize(begin_ + n_ + kGuard, sentinel);
  }
  Guarded(const Guarded&) = delete;
  T* data() { return all_.data() + begin_; }
  bool guards_intact() const {
    for (std::size_t i = 0; i < all_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + n_) && std::memcmp(&all_[i], &sentinel_, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  std::size_t n_, begin_ = 0;
  std::vector<T> all_;
  T sentinel_;
};

struct State {
  State(std::size_t n, std::size_t offset)
      : p(n, offset, -7.0f),
        m(n, offset * 3, -7.0f),
        v(n, offset * 5, -7.0f),
        g(n, offset * 7, -7.0f),
        p16(n, offset * 11, {0xabcd}) {}
  void fill(std::size_t n, std::uint64_t seed) {
    Values values(seed);
    for (std::size_t i = 0; i < n; ++i) {
      p.data()[i] = values.any();
      m.data()[i] = values.any();
      v.data()[i] = i % 16 == 3 ? values.any() : std::abs(values.any());
      g.data()[i] = values.any();
    }
  }
  AdamWSlice slice(std::size_t begin, std::size_t n, bool with16) {
    return {p.data() + begin,
            m.data() + begin,
            v.data() + begin,
            g.data() + begin,
            with16 ? p16.data() + begin : nullptr,
            static_cast<std::int64_t>(n),
            true};
  }
  bool guards_intact() const {
    return p.guards_intact() && m.guards_intact() && v.guards_intact() && g.guards_intact() && p16.guards_intact();
  }
  Guarded<float> p, m, v, g;
  Guarded<bf16> p16;
};

// The contract, literally, with one NaN.
void reference(const AdamWSlice& s, const AdamWScalars& c) {
  const auto canonical = [](float x) { return std::isnan(x) ? std::bit_cast<float>(kCanonicalNaN) : x; };
  for (std::int64_t i = 0; i < s.n; ++i) {
    const float g = s.g[i] * c.grad_scale;
    const float p = s.decay ? s.p[i] * c.decay_factor : s.p[i];
    const float m = std::fma(c.one_minus_beta1, g - s.m[i], s.m[i]);
    const float v = std::fma(c.one_minus_beta2 * g, g, c.beta2 * s.v[i]);
    const float d = std::fma(std::sqrt(v), c.inv_sqrt_bias2, c.eps);
    s.p[i] = canonical(std::fma(-c.step_size, m / d, p));
    s.m[i] = canonical(m);
    s.v[i] = canonical(v);
    if (s.p16 != nullptr) s.p16[i] = to_bf16(s.p[i]);
  }
}

::testing::AssertionResult same(State& a, State& b, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (bits(a.p.data()[i]) != bits(b.p.data()[i])) return ::testing::AssertionFailure() << "p[" << i << "]";
    if (bits(a.m.data()[i]) != bits(b.m.data()[i])) return ::testing::AssertionFailure() << "m[" << i << "]";
    if (bits(a.v.data()[i]) != bits(b.v.data()[i])) return ::testing::AssertionFailure() << "v[" << i << "]";
    if (a.p16.data()[i].bits != b.p16.data()[i].bits) return ::testing::AssertionFailure() << "p16[" << i << "]";
  }
  return ::testing::AssertionSuccess();
}

const AdamWScalars kScalars = adamw_scalars({.weight_decay = 0.1}, 3e-4, 7, 0.37);
constexpr std::size_t kLengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097};

// Runs each test with every instruction set of this machine.
class AdamWBits : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

TEST_P(AdamWBits, EqualTheWrittenSequenceForAnyValueLengthAndAlignment) {
  for (const std::size_t n : kLengths) {
    for (const std::size_t offset : {0, 1, 2, 3, 5, 8, 13}) {
      for (const bool decay : {false, true}) {
        for (const bool with16 : {false, true}) {
          State want(n, 0), got(n, offset);
          want.fill(n, n + offset);
          got.fill(n, n + offset);
          AdamWSlice a = want.slice(0, n, with16), b = got.slice(0, n, with16);
          a.decay = b.decay = decay;
          reference(a, kScalars);
          adamw_update(b, kScalars);
          ASSERT_TRUE(same(want, got, n)) << "n " << n << ", offset " << offset << ", decay " << decay << ", p16 " << with16;
          ASSERT_TRUE(got.guards_intact()) << "wrote outside: n " << n << ", offset " << offset;
        }
      }
    }
  }
}

TEST_P(AdamWBits, DoNotDependOnCutting) {
  constexpr std::size_t kN = 4097;
  State whole(kN, 0);
  whole.fill(kN, 1);
  adamw_update(whole.slice(0, kN, true), kScalars);
  for (const std::size_t cut : {1, 15, 16, 17, 33, 1000, 4095, 4096}) {
    State pieces(kN, 1);
    pieces.fill(kN, 1);
    for (std::size_t i = 0; i < kN; i += cut) adamw_update(pieces.slice(i, std::min(cut, kN - i), true), kScalars);
    ASSERT_TRUE(same(whole, pieces, kN)) << "cut " << cut;
  }
}

TEST_P(AdamWBits, DoNotDependOnTheNumberOfThreads) {
  constexpr std::size_t kN = 3 * 65536 + 17;
  State alone(kN, 0);
  alone.fill(kN, 2);
  adamw_update(alone.slice(0, kN, true), kScalars);
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    State shared(kN, 3);
    shared.fill(kN, 2);
    adamw_update(shared.slice(0, kN, true), kScalars, pool);
    ASSERT_TRUE(same(alone, shared, kN)) << threads << " threads";
    ASSERT_TRUE(shared.guards_intact());
  }
}

TEST_P(AdamWBits, GradScaleOneChangesNothing) {
  constexpr std::size_t kN = 1000;
  AdamWScalars scalars = kScalars;
  scalars.grad_scale = 1.0f;
  State got(kN, 0), want(kN, 0);
  got.fill(kN, 3);
  want.fill(kN, 3);
  adamw_update(got.slice(0, kN, true), scalars);
  for (std::size_t i = 0; i < kN; ++i) {  // the sequence without its first line
    const float g = want.g.data()[i], m = want.m.data()[i], v = want.v.data()[i];
    const float first = std::fma(scalars.one_minus_beta1, g - m, m);
    const float second = std::fma(scalars.one_minus_beta2 * g, g, scalars.beta2 * v);
    ASSERT_EQ(bits(got.m.data()[i]), std::isnan(first) ? kCanonicalNaN : bits(first)) << i;
    ASSERT_EQ(bits(got.v.data()[i]), std::isnan(second) ? kCanonicalNaN : bits(second)) << i;
  }
}

TEST_P(AdamWBits, KeepDenormalsAndTheCanonicalNaN) {
  float p = 0x1p-140f, m = 0x1p-148f, v = 0x1p-140f;
  const float g = 0.0f;
  bf16 p16;
  AdamWScalars scalars = kScalars;
  adamw_update({&p, &m, &v, &g, &p16, 1, false}, scalars);
  EXPECT_EQ(m, 0x1p-148f);  // 0.9 of two units in the last place is two
  EXPECT_GT(v, 0x1.fep-141f);
  EXPECT_LT(v, 0x1p-140f);
  EXPECT_NE(p, 0.0f);
  const float nan_gradient = -std::numeric_limits<float>::quiet_NaN();
  adamw_update({&p, &m, &v, &nan_gradient, &p16, 1, false}, scalars);
  EXPECT_EQ(bits(p), kCanonicalNaN);
  EXPECT_EQ(bits(m), kCanonicalNaN);
  EXPECT_EQ(bits(v), kCanonicalNaN);
  EXPECT_EQ(p16.bits, kBf16CanonicalNaN);
}

INSTANTIATE_TEST_SUITE_P(Isas, AdamWBits, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& tested) { return std::string(kernels::to_string(tested.param)); });

TEST(AdamWScalarsTest, FollowTheClosedForms) {
  const AdamWConfig config{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  for (const std::int64_t step : {1, 2, 3, 10, 1000, 1000000}) {
    const double lr = 6e-4;
    const AdamWScalars s = adamw_scalars(config, lr, step, 0.5);
    const auto n = static_cast<double>(step);
    EXPECT_FLOAT_EQ(s.step_size, static_cast<float>(lr / -std::expm1(n * std::log(0.9))));
    EXPECT_FLOAT_EQ(s.inv_sqrt_bias2, static_cast<float>(1.0 / std::sqrt(-std::expm1(n * std::log(0.95)))));
    EXPECT_EQ(s.decay_factor, static_cast<float>(1.0 - 6e-5));
    EXPECT_EQ(s.one_minus_beta2, static_cast<float>(1.0 - 0.95));  // not 1.0f - 0.95f
    EXPECT_EQ(s.grad_scale, 0.5f);
  }
  EXPECT_THROW(adamw_scalars(config, 1e-3, 0, 1.0), ContractViolation);
}

}  // namespace
}  // namespace strata
