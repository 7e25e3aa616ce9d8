// States in other formats than f32: every body gives the bits of the written sequence, whatever the length, alignment and
// cutting. Mutations caught: noise of the slice's place and not of the element's, both states with the same bits of a word, a
// round of Philox left out, noise that does not know the step or the parameter, rounding to nearest.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "optim/state_noise.h"
#include "runtime/kernels/isa.h"
#include "runtime/rng.h"
#include "tests/machines/machines.h"
#include "update_testing.h"

namespace strata {
namespace {

using namespace update_testing;  // NOLINT

constexpr std::uint64_t kSeed = 99;
constexpr std::int64_t kFirst = 4096 + 64;  // of the slice, in its parameter

struct FormatMethod {
  const char* name;
  std::shared_ptr<const Optimizer> plain, packed;
};
std::vector<FormatMethod> format_methods() {
  const auto both = [](const char* name, auto make) {
    return FormatMethod{name, make(StateStorage()), make(StateStorage{kBf16States, kSeed})};
  };
  const SgdConfig momentum{.momentum = 0.9}, nesterov{.momentum = 0.9, .nesterov = true};
  return {both("AdamW", [](const StateStorage& s) { return std::make_shared<AdamW>(AdamWConfig(), s); }),
          both("Lion", [](const StateStorage& s) { return std::make_shared<Lion>(LionConfig(), s); }),
          both("Momentum", [&](const StateStorage& s) { return std::make_shared<Sgd>(momentum, s); }),
          both("Nesterov", [&](const StateStorage& s) { return std::make_shared<Sgd>(nesterov, s); })};
}

// A State whose states are bf16.
struct Bf16State {
  Bf16State(std::size_t n, const Offsets& offsets)
      : rest(n, offsets), first(n, offsets[1], {0xabcd}), second(n, offsets[2], {0xabcd}) {}
  Bf16State(std::size_t n, std::size_t offset) : Bf16State(n, {offset, offset * 3, offset * 5, offset * 7, offset * 11}) {}
  void fill(std::size_t n, std::uint64_t seed) {
    rest.fill(n, seed);
    for (std::size_t i = 0; i < n; ++i) {
      first.data()[i] = to_bf16(rest.first.data()[i]);
      second.data()[i] = to_bf16(rest.second.data()[i]);
    }
  }
  UpdateSlice slice(std::size_t begin, std::size_t n, bool with16, bool gradient16 = false) {
    UpdateSlice s = rest.slice(begin, n, with16, gradient16);
    s.states = {};
    s.format = kBf16States;
    s.packed = packed(begin);
    s.stream = state_noise_stream("some.weight");
    s.first = kFirst + static_cast<std::int64_t>(begin);
    return s;
  }
  std::array<std::byte*, kMaxStates> packed(std::size_t begin) {
    return {reinterpret_cast<std::byte*>(first.data() + begin), reinterpret_cast<std::byte*>(second.data() + begin)};
  }
  bool guards_intact() const { return rest.guards_intact() && first.guards_intact() && second.guards_intact(); }
  State rest;
  Guarded<bf16> first, second;
};

::testing::AssertionResult same(Bf16State& a, Bf16State& b, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (bits(a.rest.p.data()[i]) != bits(b.rest.p.data()[i])) return ::testing::AssertionFailure() << "p[" << i << "]";
    if (a.first.data()[i].bits != b.first.data()[i].bits) return ::testing::AssertionFailure() << "first state[" << i << "]";
    if (a.second.data()[i].bits != b.second.data()[i].bits) return ::testing::AssertionFailure() << "second state[" << i << "]";
    if (a.rest.p16.data()[i].bits != b.rest.p16.data()[i].bits) return ::testing::AssertionFailure() << "p16[" << i << "]";
  }
  return ::testing::AssertionSuccess();
}

// The contract, literally, from the update of f32 states.
void reference(const FormatMethod& method, Bf16State& state, std::size_t n, bool gradient16, const UpdateStep& step,
               const ParamGroup& group) {
  State f32(n, 0);
  std::memcpy(f32.p.data(), state.rest.p.data(), n * sizeof(float));
  std::memcpy(f32.g.data(), state.rest.g.data(), n * sizeof(float));
  std::memcpy(f32.g16.data(), state.rest.g16.data(), n * sizeof(bf16));
  for (std::size_t i = 0; i < n; ++i) {
    f32.first.data()[i] = to_float(state.first.data()[i]);
    f32.second.data()[i] = to_float(state.second.data()[i]);
  }
  method.plain->update(f32.slice(0, n, true, gradient16), step, group);
  std::memcpy(state.rest.p.data(), f32.p.data(), n * sizeof(float));
  std::memcpy(state.rest.p16.data(), f32.p16.data(), n * sizeof(bf16));
  const std::size_t states = method.plain->states().size();
  const std::uint64_t key = Philox(kSeed, stream_id("state noise/some.weight")).u64(0);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t element = static_cast<std::uint64_t>(kFirst) + i, number = static_cast<std::uint64_t>(step.number);
    const std::uint32_t word =
        philox4x32({static_cast<std::uint32_t>(element / 4), static_cast<std::uint32_t>(element / 4 >> 32),
                    static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)},
                   {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)})[element % 4];
    state.first.data()[i].bits = static_cast<std::uint16_t>((bits(f32.first.data()[i]) + (word & 0xffffu)) >> 16);
    if (states > 1) state.second.data()[i].bits = static_cast<std::uint16_t>((bits(f32.second.data()[i]) + (word >> 16)) >> 16);
  }
}

class Bf16StateBits : public ::testing::TestWithParam<FormatMethod> {
 protected:
  static const FormatMethod& method() { return GetParam(); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }
  template <class Check>
  static void on_every_isa(const Check& check) {
    for (const kernels::Isa isa : kernels::available_isas()) {
      SCOPED_TRACE(kernels::to_string(isa));
      ASSERT_TRUE(kernels::set_isa(isa).ok());
      check();
    }
  }

 private:
  kernels::Isa before_ = kernels::active_isa();
};

TEST_P(Bf16StateBits, EqualTheWrittenSequenceForAnyLengthAndAlignment) {
  on_every_isa([] {
    for (const std::size_t n : {0, 1, 7, 16, 31, 32, 33, 63, 65, 300, 4097})
      for (const std::size_t offset : {0, 1, 2, 3, 13})
        for (const bool gradient16 : {false, true}) {
          Bf16State want(n, 0), got(n, offset);
          want.fill(n, n + offset);
          got.fill(n, n + offset);
          reference(method(), want, n, gradient16, kStep, kDecays);
          method().packed->update(got.slice(0, n, true, gradient16), kStep, kDecays);
          ASSERT_TRUE(same(want, got, n)) << "n " << n << ", offset " << offset << ", g16 " << gradient16;
          ASSERT_TRUE(got.guards_intact()) << "wrote outside: n " << n << ", offset " << offset;
        }
  });
}

TEST_P(Bf16StateBits, DoNotDependOnCuttingThreadsOrWhereResultsGo) {
  constexpr std::size_t kN = 2 * 65536 + 17;
  on_every_isa([] {
    Bf16State whole(kN, 0);
    whole.fill(kN, 1);
    method().packed->update(whole.slice(0, kN, true), kStep, kDecays);
    Bf16State pieces(kN, 1), from(kN, 2), to(kN, 3);
    for (Bf16State* state : {&pieces, &from, &to}) state->fill(kN, 1);
    for (std::size_t i = 0, cut = 1; i < kN; i += cut, cut = cut * 2 + 1)
      method().packed->update(pieces.slice(i, std::min(cut, kN - i), true), kStep, kDecays);
    ASSERT_TRUE(same(whole, pieces, kN));
    UpdateSlice slice = from.slice(0, kN, true);
    slice.p16 = to.rest.p16.data(), slice.new_p = to.rest.p.data(), slice.new_packed = to.packed(0);
    ThreadPool pool(3);
    update(*method().packed, slice, kStep, kDecays, pool);
    ASSERT_TRUE(same(whole, to, kN));
    Bf16State kept(kN, 0);
    kept.fill(kN, 1);
    std::memcpy(kept.rest.p16.data(), from.rest.p16.data(), kN * sizeof(bf16));
    ASSERT_TRUE(same(kept, from, kN));
    ASSERT_TRUE(to.guards_intact() && from.guards_intact() && pieces.guards_intact());
  });
}

TEST_P(Bf16StateBits, OfAGpuAreThoseOfTheHost) {
  const std::unique_ptr<GpuDriver> driver = testing::gpu_machines()[0].make_driver();
  const std::unique_ptr<GpuQueue> queue = driver->make_queue("update").value();
  const auto update_on_gpu = [&](const UpdateSlice& slice) {
    method().packed->enqueue_on_gpu(slice, kStep, kDecays, *driver, *queue);
    const Status status = queue->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
  };
  for (const std::size_t n : {1, 7, 8, 9, 33, 257, 2049}) {
    for (const bool gradient16 : {false, true}) {
      Bf16State want(n, 0);
      want.fill(n, n);
      method().packed->update(want.slice(0, n, true, gradient16), kStep, kDecays);
      for (const Offsets& offsets : {Offsets{}, Offsets{1, 1, 1, 1, 1}, Offsets{4, 4, 4, 4, 4}, Offsets{0, 1, 0, 0, 0}}) {
        SCOPED_TRACE(::testing::Message() << n << " at " << ::testing::PrintToString(offsets));
        Bf16State got(n, offsets);
        got.fill(n, n);
        ASSERT_NO_FATAL_FAILURE(update_on_gpu(got.slice(0, n, true, gradient16)));
        ASSERT_TRUE(got.guards_intact() && same(want, got, n));
        Bf16State cut(n, offsets);
        cut.fill(n, n);
        for (std::size_t i = 0; i < n; i += 11)
          ASSERT_NO_FATAL_FAILURE(update_on_gpu(cut.slice(i, std::min<std::size_t>(11, n - i), true, gradient16)));
        ASSERT_TRUE(cut.guards_intact() && same(want, cut, n));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Bf16StateBits, ::testing::ValuesIn(format_methods()),
                         [](const auto& tested) { return std::string(tested.param.name); });

// Specification M1. One update of Sgd with a momentum of 0 gradient leaves fma(momentum, b, 0): the value that is rounded.
class Bf16Rounding : public ::testing::Test {
 protected:
  static constexpr std::size_t kN = 100000;
  // What `value` (as gradient: momentum starts at 0) becomes in kN elements.
  static std::vector<std::uint16_t> rounded(float value, std::uint64_t seed, std::int64_t number,
                                            const char* param = "some.weight") {
    const Sgd method({.momentum = 0.5}, {kBf16States, seed});
    std::vector<float> p(kN), g(kN, value);
    std::vector<bf16> states(kN);
    method.update({.p = p.data(),
                   .g = g.data(),
                   .n = kN,
                   .format = kBf16States,
                   .packed = {reinterpret_cast<std::byte*>(states.data())},
                   .stream = state_noise_stream(param)},
                  {.number = number}, {});
    std::vector<std::uint16_t> all;
    for (const bf16 state : states) all.push_back(state.bits);
    return all;
  }
};

TEST_F(Bf16Rounding, IsUnbiasedWithinFourDeviations) {
  for (const float value : {1.0f + 0x1p-10f, -0.7123456f, 3.1e-30f, 12345.678f}) {
    const std::vector<std::uint16_t> all = rounded(value, 5, 3);
    const std::uint32_t of = bits(value);
    const float low = std::bit_cast<float>(of & 0xffff0000u), high = std::bit_cast<float>((of & 0xffff0000u) + 0x10000u);
    const double up = (static_cast<double>(value) - low) / (static_cast<double>(high) - low);
    std::int64_t ups = 0;
    for (const std::uint16_t b : all) {
      ASSERT_TRUE(b == of >> 16 || b == (of >> 16) + 1);
      ups += b == (of >> 16) ? 0 : 1;
    }
    const double n = kN;
    EXPECT_NEAR(static_cast<double>(ups), n * up, 4.0 * std::sqrt(n * up * (1.0 - up))) << value;
  }
}

TEST_F(Bf16Rounding, NeverMovesWhatBf16Has) {
  for (const float value : {0.0f, -0.0f, 1.0f, -1.0078125f, 0x1p-130f, INFINITY, -INFINITY}) {
    const std::vector<std::uint16_t> all = rounded(value, 5, 3);
    EXPECT_EQ(std::count(all.begin(), all.end(), static_cast<std::uint16_t>(bits(value + 0.0f) >> 16)), std::ssize(all))
        << value;
  }
  const std::vector<std::uint16_t> nan = rounded(NAN, 5, 3);
  EXPECT_EQ(std::count(nan.begin(), nan.end(), kBf16CanonicalNaN), std::ssize(nan));
}

TEST_F(Bf16Rounding, HasOtherNoiseInEveryStepSeedAndParameter) {
  const std::vector<std::uint16_t> one = rounded(0.7123456f, 5, 3);
  EXPECT_EQ(one, rounded(0.7123456f, 5, 3));
  for (const auto& other : {rounded(0.7123456f, 5, 4), rounded(0.7123456f, 6, 3), rounded(0.7123456f, 5, 3, "other.weight")}) {
    std::size_t differ = 0;
    for (std::size_t i = 0; i < kN; ++i) differ += one[i] == other[i] ? 0 : 1;
    EXPECT_GT(differ, kN / 10);
  }
}

}  // namespace
}  // namespace strata
