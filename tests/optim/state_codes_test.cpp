// 8-bit blockwise AdamW: bitsandbytes' maps, codes and runs (tests/oracle/make_bnb_vectors.py), and the same bits on every body
// and in any cut at blocks. Mutations caught: the signed map for v, thresholds at values, the largest magnitude before the
// update, a state in p's place, a tail that looks behind its elements.
#include "optim/state_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "optim/adamw.h"
#include "runtime/kernels/isa.h"
#include "update_testing.h"
#include "vector_file.h"

namespace strata {
namespace {

using namespace update_testing;  // NOLINT

constexpr std::int64_t kBlock = kEightBitStates.block;

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

// Coded states of a parameter.
struct Coded {
  explicit Coded(std::size_t n) {
    for (auto& state : blocks) state.resize(static_cast<std::size_t>(kEightBitStates.bytes(static_cast<std::int64_t>(n))));
  }
  std::array<std::byte*, kMaxStates> at(std::size_t first) {
    const auto place = kEightBitStates.bytes(static_cast<std::int64_t>(first));
    return {blocks[0].data() + place, blocks[1].data() + place};
  }
  std::uint8_t& code(std::size_t k, std::size_t i) {
    return *reinterpret_cast<std::uint8_t*>(&blocks[k][i / 256 * 260 + i % 256]);
  }
  float largest(std::size_t k, std::size_t block) const {
    float value = 0.0f;
    std::memcpy(&value, &blocks[k][block * 260 + 256], sizeof value);
    return value;
  }
  void set_largest(std::size_t k, std::size_t block, float value) {
    std::memcpy(&blocks[k][block * 260 + 256], &value, sizeof value);
  }
  std::array<std::vector<std::byte>, kMaxStates> blocks;
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

// Any values: every body gives the bits of the plain one, in one piece, cut at blocks, over threads and elsewhere.
TEST_P(EightBit, BitsAreThoseOfThePlainBodyInAnyCut) {
  for (const std::size_t n : {1, 31, 256, 257, 4096 + 300, 2 * 65536 + 77}) {
    for (const std::size_t offset : {0, 1, 13}) {
      for (const bool gradient16 : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "n " << n << ", offset " << offset << ", g16 " << gradient16);
        State want(n, 0), whole(n, offset), pieces(n, offset), from(n, offset), to(n, offset);
        Coded want_states(n), whole_states(n), pieces_states(n), from_states(n), to_states(n);
        for (State* state : {&want, &whole, &pieces, &from}) state->fill(n, n);
        Values random(n);
        for (std::size_t k = 0; k < 2; ++k) {
          for (std::size_t i = 0; i < n; ++i) want_states.code(k, i) = static_cast<std::uint8_t>(random.next());
          for (std::size_t b = 0; 256 * b < n; ++b)
            want_states.set_largest(k, b, b % 7 == 3 ? std::abs(random.any()) : std::exp2(static_cast<float>(b % 50) - 40.0f));
        }
        for (Coded* coded : {&whole_states, &pieces_states, &from_states}) coded->blocks = want_states.blocks;
        const auto slice = [&](State& state, Coded& states, std::size_t first, std::size_t count) {
          UpdateSlice s = state.slice(first, count, true, gradient16);
          s.states = {};
          s.format = kEightBitStates;
          s.packed = states.at(first);
          return s;
        };
        ASSERT_TRUE(kernels::set_isa(kernels::Isa::generic).ok());
        eight_bit().update(slice(want, want_states, 0, n), kStep, kDecays);
        ASSERT_TRUE(kernels::set_isa(GetParam()).ok());
        eight_bit().update(slice(whole, whole_states, 0, n), kStep, kDecays);
        for (std::size_t i = 0, cut = 256; i < n; i += cut, cut *= 3)
          eight_bit().update(slice(pieces, pieces_states, i, std::min(cut, n - i)), kStep, kDecays);
        UpdateSlice elsewhere = slice(from, from_states, 0, n);
        elsewhere.new_p = to.p.data(), elsewhere.p16 = to.p16.data(), elsewhere.new_packed = to_states.at(0);
        ThreadPool pool(2);
        update(eight_bit(), elsewhere, kStep, kDecays, pool);
        for (auto [state, states] :
             {std::pair(&whole, &whole_states), std::pair(&pieces, &pieces_states), std::pair(&to, &to_states)}) {
          for (std::size_t i = 0; i < n; ++i) {
            ASSERT_EQ(bits(want.p.data()[i]), bits(state->p.data()[i])) << i;
            ASSERT_EQ(want.p16.data()[i].bits, state->p16.data()[i].bits) << i;
          }
          ASSERT_TRUE(states->blocks == want_states.blocks);
          ASSERT_TRUE(state->guards_intact());
        }
      }
    }
  }
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

}  // namespace
}  // namespace strata
