// 8-bit blockwise AdamW: bitsandbytes' maps, codes and runs (tests/oracle/make_bnb_vectors.py), and the same bits on every
// body, on a GPU and in any cut at blocks. Mutations caught: the signed map for v, thresholds at values, the largest magnitude
// before the update, a state in p's place, a tail that looks behind its elements, an infinity's reciprocal as it is; on a GPU
// the signed map for v, the magnitudes of 16 lanes, codes written behind a parameter's last element, the zero of the other map
// there, an infinity stored as it is, results in the old states' place, a warp's block left out, 16 bytes at once where arrays
// are not aligned.
#include "optim/state_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <memory_resource>
#include <vector>

#include "optim/adamw.h"
#include "runtime/kernels/isa.h"
#include "tests/machines/machines.h"
#include "update_testing.h"
#include "vector_file.h"

namespace strata {
namespace {

using namespace update_testing;  // NOLINT

constexpr std::size_t kBlock = kEightBitStates.block;

class OnEveryIsa : public ::testing::TestWithParam<kernels::Isa> {
 protected:
  void SetUp() override { ASSERT_TRUE(kernels::set_isa(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(kernels::set_isa(before_).ok()); }

 private:
  kernels::Isa before_ = kernels::active_isa();
};
using EightBit = OnEveryIsa;
INSTANTIATE_TEST_SUITE_P(Isas, EightBit, ::testing::ValuesIn(kernels::available_isas()),
                         [](const auto& tested) { return std::string(kernels::to_string(tested.param)); });

// Coded states of a parameter, guarded on both sides.
struct Coded {
  static constexpr std::size_t kBlockWords = kEightBitStates.block_bytes / 4, kGuard = 16;
  explicit Coded(std::size_t n) {
    const std::size_t count = (n + kBlock - 1) / kBlock * kBlockWords;
    for (Words& state : words) {
      state.resize(count + 2 * kGuard, 0xabababab);
      std::fill_n(state.begin() + kGuard, count, 0u);
    }
  }
  Coded(const Coded&) = delete;
  std::array<std::byte*, kMaxStates> at(std::size_t first) {
    const std::size_t word = kGuard + first / kBlock * kBlockWords;
    return {reinterpret_cast<std::byte*>(&words[0][word]), reinterpret_cast<std::byte*>(&words[1][word])};
  }
  std::uint8_t& code(std::size_t k, std::size_t i) { return reinterpret_cast<std::uint8_t*>(at(i)[k])[i % kBlock]; }
  std::uint32_t& largest_bits(std::size_t k, std::size_t block) { return words[k][kGuard + (block + 1) * kBlockWords - 1]; }
  float largest(std::size_t k, std::size_t block) { return std::bit_cast<float>(largest_bits(k, block)); }
  void set_largest(std::size_t k, std::size_t block, float value) { largest_bits(k, block) = bits(value); }
  using Words = std::pmr::vector<std::uint32_t>;
  std::array<Words, kMaxStates> words{Words(&testing::shared_memory()), Words(&testing::shared_memory())};
};

const AdamW& eight_bit() {
  static const AdamW method({.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}, {.format = kEightBitStates});
  return method;
}

// The nearest value by looking at all of them.
std::uint8_t nearest(const StateCodes& codes, float x) {
  std::size_t best = codes.is_signed ? 127 : 0;
  for (std::size_t i = 0; i < 256; ++i) {
    const double is = std::abs(double{codes.values[i]} - x), was = std::abs(double{codes.values[best]} - x);
    if (is < was || (is == was && std::abs(codes.values[i]) < std::abs(codes.values[best]))) best = i;
  }
  return static_cast<std::uint8_t>(best);
}

TEST(StateCodes, AreTheMapsOfBitsandbytes) {
  const vector_file::File file("bnb.bin");
  for (const auto& [name, codes] : {std::pair("signed", &signed_codes()), std::pair("unsigned", &unsigned_codes())}) {
    const std::vector<float> map = file.floats(std::string("map/") + name);
    ASSERT_EQ(map.size(), 256u);
    for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(codes->values[i], map[i], 2.5e-7f * std::abs(map[i])) << name << i;
  }
}

// One update with beta1 = beta2 = 0 stores g and its square: all codes of one block against a search of the whole map.
TEST_P(EightBit, CodesAreTheNearestValues) {
  const AdamW method({.beta1 = 0.0, .beta2 = 0.0}, {.format = kEightBitStates});
  Values random(3);
  constexpr std::size_t kN = 64 * 256;
  std::vector<float> p(kN), g(kN);
  for (std::size_t i = 0; i < kN; ++i)
    g[i] = i % 256 == 0 ? 1.0f : std::exp2(-static_cast<float>(random.next() % 2600) / 100.0f) * (i % 2 == 0 ? 1.0f : -1.0f);
  Coded states(kN);
  method.update({.p = p.data(), .g = g.data(), .n = kN, .format = kEightBitStates, .packed = states.at(0)}, {.lr = 0.0}, {});
  for (std::size_t i = 0; i < kN; ++i) {
    ASSERT_EQ(states.code(0, i), nearest(signed_codes(), g[i])) << g[i];
    ASSERT_EQ(states.code(1, i), nearest(unsigned_codes(), g[i] * g[i])) << g[i];
  }
}

TEST_P(EightBit, FollowsBitsandbytes) {
  const vector_file::File file("bnb.bin");
  std::size_t codes = 0, differ = 0;
  double worst = 0.0;
  for (const std::string& name : file.cases("adamw8")) {
    if (name == "adamw8/decay" || name == "adamw8/zerofirst" || name == "adamw8/plain") {
      const ParamGroup group{.weight_decay = file.number(name + "/h/weight_decay")};
      std::vector<float> p = file.floats(name + "/w0");
      const std::size_t n = p.size();
      Coded states(n);
      std::int64_t number = 0;
      for (const double lr : file.learning_rates(name)) {
        const std::string step = name + "/step" + std::to_string(++number) + "/";
        const std::vector<float> g = file.gradient(name, number), want = file.floats(step + "w");
        eight_bit().update({.p = p.data(),
                            .g = g.data(),
                            .n = static_cast<std::int64_t>(n),
                            .format = kEightBitStates,
                            .packed = states.at(0)},
                           {.number = number, .lr = lr}, group);
        for (std::size_t i = 0; i < n; ++i)
          worst = std::max(worst, std::abs(double{p[i]} - want[i]) / (std::abs(want[i]) + 1e-3));
        p = want;
        for (std::size_t k = 0; k < 2; ++k) {
          const std::vector<std::uint8_t> code = file[step + (k == 0 ? "code_m" : "code_v")].as<std::uint8_t>();
          const std::vector<float> largest = file.floats(step + (k == 0 ? "absmax_m" : "absmax_v"));
          for (std::size_t b = 0; b < largest.size(); ++b)
            EXPECT_NEAR(states.largest(k, b), largest[b], 1e-5 * double{largest[b]} + 1e-37) << step << k << " " << b;
          for (std::size_t i = 0; i < n; ++i) {
            if (largest[i / 256] > 1e-37f) {
              const int by = std::abs(int{states.code(k, i)} - int{code[i]});
              ASSERT_LE(by, 1) << step << k << " " << i;
              ++codes;
              differ += by == 0 ? 0 : 1;
            }
            states.code(k, i) = code[i];  // so that a code at a threshold counts once
          }
          for (std::size_t b = 0; b < largest.size(); ++b) states.set_largest(k, b, largest[b]);
        }
      }
    }
  }
  EXPECT_GT(codes, 5000u);
  EXPECT_LE(static_cast<double>(differ), 1e-3 * static_cast<double>(codes));
  EXPECT_LT(worst, 1e-5);
}

// Blocks of every kind, from another one on with every seed: ordinary values, none but zeros, large, tiny, one infinity, and
// any bit patterns. The last block's codes behind the parameter's end can be anything too.
void fill(State& state, Coded& states, std::size_t n, std::uint64_t seed) {
  enum Kind : std::size_t { ordinary, zeros, large, tiny, infinity, any, kinds };
  struct Scale {
    float g, m, v;
  };
  static constexpr Scale kScales[] = {
      {1.0f, 0.5f, 0.01f}, {}, {0x1p+44f, 1e25f, 3e38f}, {0x1p-110f, 1e-40f, 3e-45f}, {1.0f, 0.5f, 0.01f}};
  state.fill(n, seed);
  Values random(seed);
  for (std::size_t b = 0; kBlock * b < n; ++b) {
    const std::size_t kind = (b + seed) % kinds, begin = kBlock * b, end = std::min(begin + kBlock, n);
    for (std::size_t k = 0; k < 2; ++k) {
      for (std::size_t i = begin; i < begin + kBlock; ++i) states.code(k, i) = static_cast<std::uint8_t>(random.next());
      states.set_largest(k, b, kind == any ? random.any() : k == 0 ? kScales[kind].m : kScales[kind].v);
    }
    if (kind == any) continue;
    for (std::size_t i = begin; i < end; ++i) {
      state.p.data()[i] = random.ordinary();
      state.g.data()[i] = random.ordinary() * kScales[kind].g;
    }
    if (kind == infinity) state.g.data()[begin + random.next() % (end - begin)] = b % 2 == 0 ? INFINITY : -INFINITY;
    for (std::size_t i = begin; i < end; ++i) state.g16.data()[i] = to_bf16(state.g.data()[i]);
  }
}

UpdateSlice slice_of(State& state, Coded& states, std::size_t first, std::size_t n, bool with16, bool gradient16) {
  UpdateSlice slice = state.slice(first, n, with16, gradient16);
  slice.states = {};
  slice.format = kEightBitStates;
  slice.packed = states.at(first);
  return slice;
}

// Guards, and what no update writes, included.
::testing::AssertionResult same(State& a, const Coded& a_states, State& b, const Coded& b_states, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (bits(a.p.data()[i]) != bits(b.p.data()[i])) return ::testing::AssertionFailure() << "p[" << i << "]";
    if (a.p16.data()[i].bits != b.p16.data()[i].bits) return ::testing::AssertionFailure() << "p16[" << i << "]";
  }
  for (std::size_t k = 0; k < 2; ++k) {
    const auto &x = a_states.words[k], &y = b_states.words[k];
    const auto [at, other] = std::mismatch(x.begin(), x.end(), y.begin(), y.end());
    if (at != x.end())
      return ::testing::AssertionFailure() << "word " << at - x.begin() - std::ptrdiff_t{Coded::kGuard} << " of state " << k
                                           << ": " << std::hex << *at << " and " << *other;
  }
  if (!a.guards_intact() || !b.guards_intact()) return ::testing::AssertionFailure() << "wrote outside";
  return ::testing::AssertionSuccess();
}

// Every body gives the bits of the plain one, in one piece, cut at blocks, over threads and elsewhere.
TEST_P(EightBit, BitsAreThoseOfThePlainBodyInAnyCut) {
  for (const std::size_t n : {1, 31, 256, 257, 4096 + 300, 2 * 65536 + 77}) {
    for (const std::size_t offset : {0, 1, 13}) {
      for (const bool gradient16 : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "n " << n << ", offset " << offset << ", g16 " << gradient16);
        State want(n, 0), whole(n, offset), pieces(n, offset), from(n, offset), to(n, offset);
        Coded want_states(n), whole_states(n), pieces_states(n), from_states(n);
        fill(want, want_states, n, n), fill(whole, whole_states, n, n), fill(pieces, pieces_states, n, n);
        fill(from, from_states, n, n);
        Coded to_states(n);
        to_states.words = from_states.words;  // what no update writes
        ASSERT_TRUE(kernels::set_isa(kernels::Isa::generic).ok());
        eight_bit().update(slice_of(want, want_states, 0, n, true, gradient16), kStep, kDecays);
        ASSERT_TRUE(kernels::set_isa(GetParam()).ok());
        eight_bit().update(slice_of(whole, whole_states, 0, n, true, gradient16), kStep, kDecays);
        ASSERT_TRUE(same(want, want_states, whole, whole_states, n));
        for (std::size_t i = 0, cut = 256; i < n; i += cut, cut *= 3)
          eight_bit().update(slice_of(pieces, pieces_states, i, std::min(cut, n - i), true, gradient16), kStep, kDecays);
        ASSERT_TRUE(same(want, want_states, pieces, pieces_states, n));
        UpdateSlice elsewhere = slice_of(from, from_states, 0, n, true, gradient16);
        elsewhere.new_p = to.p.data(), elsewhere.p16 = to.p16.data(), elsewhere.new_packed = to_states.at(0);
        ThreadPool pool(2);
        update(eight_bit(), elsewhere, kStep, kDecays, pool);
        ASSERT_TRUE(same(want, want_states, to, to_states, n));
      }
    }
  }
}

class EightBitOnGpu : public ::testing::Test {
 protected:
  void update_on_gpu(const UpdateSlice& slice, const ParamGroup& group = kDecays) {
    eight_bit().enqueue_on_gpu(slice, kStep, group, *driver_, *queue_);
    const Status status = queue_->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
  }

 private:
  std::unique_ptr<GpuDriver> driver_ = testing::gpu_machines()[0].make_driver();
  std::unique_ptr<GpuQueue> queue_ = driver_->make_queue("update").value();
};

// A block of threads takes 32 blocks of states: 8192 elements.
TEST_F(EightBitOnGpu, BitsAreThoseOfTheHostForAnyLengthAndAlignment) {
  std::vector<std::size_t> lengths = {0, 1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 7 * 256 - 3, 8191, 8192, 8193, 5 * 8192 + 300};
  if (testing::kSanitized) lengths = {1, 257, 8192 + 259};
  for (const std::size_t n : lengths) {
    for (const auto& [with16, gradient16] : {std::pair(false, false), {true, false}, {true, true}}) {
      const ParamGroup group = n % 2 == 0 ? kDecays : ParamGroup{};
      State want(n, 0);
      Coded want_states(n);
      fill(want, want_states, n, n);
      eight_bit().update(slice_of(want, want_states, 0, n, with16, gradient16), kStep, group);
      for (const Offsets& offsets : {Offsets{}, Offsets{4, 4, 4, 4, 8}, Offsets{8, 8, 8, 8, 8}, Offsets{1, 1, 1, 1, 1},
                                     Offsets{0, 0, 0, 0, 4}, Offsets{0, 0, 0, 2, 0}, Offsets{2, 0, 0, 0, 0}}) {
        SCOPED_TRACE(::testing::Message() << "n " << n << ", offsets " << ::testing::PrintToString(offsets) << ", p16 "
                                          << with16 << ", g16 " << gradient16);
        State got(n, offsets);
        Coded got_states(n);
        fill(got, got_states, n, n);
        ASSERT_NO_FATAL_FAILURE(update_on_gpu(slice_of(got, got_states, 0, n, with16, gradient16), group));
        ASSERT_TRUE(same(want, want_states, got, got_states, n));
      }
    }
  }
}

TEST_F(EightBitOnGpu, BitsDoNotDependOnCuttingOrWhereResultsGo) {
  const std::size_t n = (testing::kSanitized ? 1 : 3) * 8192 + 1300 + 77;
  State want(n, 0), pieces(n, 1), from(n, 0), to(n, 0);
  Coded want_states(n), pieces_states(n), from_states(n);
  fill(want, want_states, n, 2), fill(pieces, pieces_states, n, 2), fill(from, from_states, n, 2);
  Coded kept_states(n), to_states(n);
  kept_states.words = from_states.words;
  to_states.words = from_states.words;  // what no update writes
  eight_bit().update(slice_of(want, want_states, 0, n, true, false), kStep, kDecays);
  for (std::size_t i = 0, cut = 256; i < n; i += cut, cut *= 3)
    ASSERT_NO_FATAL_FAILURE(update_on_gpu(slice_of(pieces, pieces_states, i, std::min(cut, n - i), true, false)));
  ASSERT_TRUE(same(want, want_states, pieces, pieces_states, n));
  UpdateSlice elsewhere = slice_of(from, from_states, 0, n, true, false);
  elsewhere.new_p = to.p.data(), elsewhere.p16 = to.p16.data(), elsewhere.new_packed = to_states.at(0);
  ASSERT_NO_FATAL_FAILURE(update_on_gpu(elsewhere));
  ASSERT_TRUE(same(want, want_states, to, to_states, n));
  State kept(n, 0);
  Coded ignored(n);
  fill(kept, ignored, n, 2);
  ASSERT_TRUE(same(kept, kept_states, from, from_states, n));
}

TEST_P(EightBit, ANaNInABlockIsSeenInAllOfIt) {
  std::vector<float> p(512, 1.0f), g(512, 1.0f);
  g[300] = NAN;
  Coded states(512);
  eight_bit().update({.p = p.data(), .g = g.data(), .n = 512, .format = kEightBitStates, .packed = states.at(0)}, {.lr = 0.1},
                     {});
  EXPECT_EQ(std::count_if(p.begin(), p.end(), [](float x) { return std::isnan(x); }), 1);
  EXPECT_FALSE(std::isnan(states.largest(0, 0)));
  EXPECT_TRUE(std::isnan(states.largest(0, 1)) && std::isnan(states.largest(1, 1)));
}

// All of its block is NaN; its code must not depend on what a processor makes of infinity times zero.
TEST_P(EightBit, AnInfinitysCodeHasItsSign) {
  std::vector<float> p(512, 1.0f), g(512, 1.0f);
  g[3] = INFINITY, g[300] = -INFINITY;
  Coded states(512);
  eight_bit().update({.p = p.data(), .g = g.data(), .n = 512, .format = kEightBitStates, .packed = states.at(0)}, {.lr = 0.1},
                     {});
  for (const std::size_t block : {0u, 1u})
    EXPECT_TRUE(std::isnan(states.largest(0, block)) && std::isnan(states.largest(1, block)));
  EXPECT_EQ(states.code(0, 3), 255);
  EXPECT_EQ(states.code(0, 300), 0);
  EXPECT_EQ(states.code(1, 3), 255);
}

}  // namespace
}  // namespace strata
