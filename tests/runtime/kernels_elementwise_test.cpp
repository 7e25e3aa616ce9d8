#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernel_testing.h"
#include "runtime/kernels/elementwise.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT

const std::vector<std::int64_t> kLengths = {0, 1, 15, 16, 17, 31, 80, 769, 70001};

// Every kind of f32: all exponents, ties of both 16-bit formats and their neighbours, denormals, infinities, NaNs.
std::vector<float> interesting_floats() {
  std::vector<float> values;
  for (std::uint32_t sign = 0; sign < 2; ++sign)
    for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
      for (const std::uint32_t mantissa : {0x0u, 0x1u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0x18000u,
                                           0x3fffffu, 0x400000u, 0x7fefffu, 0x7ff000u, 0x7fffffu})
        values.push_back(std::bit_cast<float>(sign << 31 | exponent << 23 | mantissa));
  return values;
}

template <class F>
void with_each_isa(const F& body) {
  const Isa before = active_isa();
  for (const Isa isa : strata::testing::kRacesOnly ? std::vector{before} : available_isas()) {
    SCOPED_TRACE(to_string(isa));
    ASSERT_TRUE(set_isa(isa).ok());
    body();
  }
  ASSERT_TRUE(set_isa(before).ok());
}

TEST(Add, SumsInF32AndRoundsOnce) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t n : kLengths) {
      const Array a = normal(dtype, {n}, "a");
      const Array b = normal(dtype, {n}, "b");
      Array expected(dtype, {n});
      for (std::int64_t i = 0; i < n; ++i)
        expected.set(i, static_cast<double>(static_cast<float>(a.at(i)) + static_cast<float>(b.at(i))));
      on_every_machine(
          [&](StreamRef stream) {
            Array x = a, y = b, out(dtype, {n}), in_a = a, in_b = b;
            add({.a = x.ref(), .b = y.ref(), .y = out.ref()}, stream);
            add({.a = in_a.ref(), .b = y.ref(), .y = in_a.ref()}, stream);
            add({.a = x.ref(), .b = in_b.ref(), .y = in_b.ref()}, stream);
            finish(stream);
            return Outputs{out, in_a, in_b};
          },
          [&](const Outputs& out) {
            for (const Array& y : out) EXPECT_TRUE(y == expected) << n;
          });
    }
}

TEST(Cast, EqualsTheScalarConversionForEveryPair) {
  const std::vector<float> values = interesting_floats();
  const auto n = static_cast<std::int64_t>(values.size()) - 3;  // not a multiple of any vector
  for (const DType from : {DType::f32, DType::bf16, DType::f16})
    for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(std::string(to_string(from)) + " to " + to_string(to));
      Array source(from, {n});
      Array expected(to, {n});
      for (std::int64_t i = 0; i < n; ++i) {
        const float x = values[static_cast<std::size_t>(i)];
        float held = x;  // what the source dtype holds
        if (from == DType::f32) std::memcpy(source.ref().as<float>() + i, &x, 4);
        if (from == DType::bf16) held = to_float(source.ref().as<bf16>()[i] = to_bf16(x));
        if (from == DType::f16) held = to_float(source.ref().as<f16>()[i] = to_f16(x));
        if (to == DType::f32) std::memcpy(expected.ref().as<float>() + i, &held, 4);
        if (to == DType::bf16) expected.ref().as<bf16>()[i] = to_bf16(held);
        if (to == DType::f16) expected.ref().as<f16>()[i] = to_f16(held);
      }
      on_every_machine(
          [&](StreamRef stream) {
            Array x = source, y(to, {n});
            cast({.x = x.ref(), .y = y.ref()}, stream);
            finish(stream);
            return Outputs{y};
          },
          [&](const Outputs& out) { EXPECT_TRUE(out[0] == expected); });
    }
}

TEST(Cast, WidensEvery16BitPattern) {
  with_each_isa([] {
    for (const DType from : {DType::bf16, DType::f16}) {
      Device device(Backend::host, 1);
      Stream stream(device, "compute");
      Array x(from, {65536}), y(DType::f32, {65536});
      for (std::uint32_t i = 0; i < 65536; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        std::memcpy(x.ref().data + 2 * i, &bits, 2);
      }
      cast({.x = x.ref(), .y = y.ref()}, stream);
      finish(stream);
      for (std::uint32_t i = 0; i < 65536; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        const float expected = from == DType::bf16 ? to_float(bf16{bits}) : to_float(f16{bits});
        ASSERT_EQ(std::bit_cast<std::uint32_t>(y.ref().as<float>()[i]), std::bit_cast<std::uint32_t>(expected)) << i;
      }
    }
  });
}

TEST(Cast, SynchronousVersionsTouchOnlyTheirRange) {
  with_each_isa([] {
    for (const std::int64_t n : kLengths) {
      Array x = normal(DType::f32, {n}, "x"), y(DType::bf16, {n}), z(DType::f32, {n});
      cast_f32_to_bf16(x.ref().as<float>(), y.ref().as<bf16>(), n);
      cast_bf16_to_f32(y.ref().as<bf16>(), z.ref().as<float>(), n);
      EXPECT_TRUE(y.guard_is_intact() && z.guard_is_intact());
      for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(z.at(i), rounded(x.at(i), DType::bf16));
    }
  });
}

TEST(Accumulate, IsOneRoundedSumPerElement) {
  with_each_isa([] {
    for (const std::int64_t n : kLengths) {
      Array x = normal(DType::f32, {n}, "x"), acc = normal(DType::f32, {n}, "acc");
      const Array before = acc;
      accumulate_f32(x.ref().as<float>(), acc.ref().as<float>(), n);
      EXPECT_TRUE(acc.guard_is_intact());
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_EQ(static_cast<float>(acc.at(i)), static_cast<float>(before.at(i)) + static_cast<float>(x.at(i)));
    }
  });
}

double written_definition(const float* x, std::int64_t n) {
  double lanes[16] = {};
  for (std::int64_t i = 0; i < n; ++i) lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

void expect_partials(const float* x, std::int64_t n, Array partials) {
  EXPECT_TRUE(partials.guard_is_intact());
  for (std::int64_t k = 0; k * kNormBlock < n; ++k) {
    double partial = 0.0;
    std::memcpy(&partial, partials.ref().data + 8 * k, sizeof partial);
    ASSERT_EQ(partial, written_definition(x + k * kNormBlock, std::min(kNormBlock, n - k * kNormBlock))) << "block " << k;
  }
}

TEST(SumSquares, EqualsItsDefinitionToTheBitOnEveryMachine) {
  for (const std::int64_t n : {1, 15, 16, 17, 4095, 4096, 4097, 8192, 12345}) {
    SCOPED_TRACE(n);
    const std::int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
    on_every_machine(
        [&](StreamRef stream) {
          Array x = normal(DType::f32, {n}, "x", 0.1, 3.0), partials(DType::i32, {2 * blocks});  // two for the bits of a double
          sum_squares_blocks({x.ref().as<float>(), n, reinterpret_cast<double*>(partials.ref().data)}, stream);
          finish(stream);
          return Outputs{x, partials};
        },
        [&](const Outputs& outputs) {
          Array x = outputs[0];
          expect_partials(x.ref().as<float>(), n, outputs[1]);
        });
  }
}

// GPUs read 16 bytes at once where they can: every beginning inside of them, every end, and ends of the batches of 256.
const std::vector<std::int64_t> kNormLengths = {1, 2, 3, 4, 5, 13, 255, 256, 257, 511, 4093, 4096, 4098, 4351, 4353, 69889};

TEST(SumSquares, EqualsItsDefinitionWhereverTheArrayBeginsAndEnds) {
  for (const std::int64_t n : kNormLengths)
    for (const std::int64_t skip : {0, 1, 2, 3}) {
      SCOPED_TRACE(std::to_string(n) + " behind " + std::to_string(skip));
      const std::int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
      Array given = normal(DType::f32, {skip + n}, "x", 0.1, 3.0);
      on_every_machine(
          [&](StreamRef stream) {
            Array x = given, partials(DType::i32, {2 * blocks});
            sum_squares_blocks({x.ref().as<float>() + skip, n, reinterpret_cast<double*>(partials.ref().data)}, stream);
            finish(stream);
            return Outputs{partials};
          },
          [&](const Outputs& out) { expect_partials(given.ref().as<float>() + skip, n, out[0]); });
    }
}

TEST(RoundAndSumSquares, HasTheBitsOfTheCastAndOfTheSumsWhereverTheArraysBegin) {
  for (const std::int64_t n : kNormLengths)
    for (const auto& [skip, skip_y] : {std::pair{0, 0}, {0, 1}, {0, 4}, {1, 0}, {2, 2}, {3, 5}}) {
      SCOPED_TRACE(std::to_string(n) + " behind " + std::to_string(skip) + " and " + std::to_string(skip_y));
      const std::int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
      Array given = normal(DType::f32, {skip + n}, "x", 0.1, 3.0);
      const float* values = given.ref().as<float>() + skip;
      Array before(DType::bf16, {skip_y + n});
      for (std::int64_t i = 0; i < skip_y; ++i) before.set(i, 7.0);
      Array expected = before;
      for (std::int64_t i = 0; i < n; ++i) expected.ref().as<bf16>()[skip_y + i] = to_bf16(values[i]);
      on_every_machine(
          [&](StreamRef stream) {
            Array x = given, y = before, partials(DType::i32, {2 * blocks});
            round_and_sum_squares({.x = x.ref().as<float>() + skip,
                                   .y = y.ref().as<bf16>() + skip_y,
                                   .n = n,
                                   .partials = reinterpret_cast<double*>(partials.ref().data)},
                                  stream);
            finish(stream);
            EXPECT_TRUE(y.guard_is_intact()) << "rounded one too many";
            return Outputs{y, partials};
          },
          [&](const Outputs& out) {
            EXPECT_TRUE(out[0] == expected);
            expect_partials(values, n, out[1]);
          });
    }
}

TEST(RoundAndSumSquares, RoundsEveryKindOfFloat) {
  const std::vector<float> values = interesting_floats();
  const auto n = static_cast<std::int64_t>(values.size());
  Array expected(DType::bf16, {n});
  for (std::int64_t i = 0; i < n; ++i) expected.ref().as<bf16>()[i] = to_bf16(values[static_cast<std::size_t>(i)]);
  on_every_machine(
      [&](StreamRef stream) {
        Array x(DType::f32, {n}), y(DType::bf16, {n});
        Array sums(DType::i32, {2 * ((n + kNormBlock - 1) / kNormBlock)});
        std::memcpy(x.ref().data, values.data(), 4 * values.size());
        round_and_sum_squares({x.ref().as<float>(), y.ref().as<bf16>(), n, reinterpret_cast<double*>(sums.ref().data)}, stream);
        finish(stream);
        return Outputs{y};
      },
      [&](const Outputs& out) { EXPECT_TRUE(out[0] == expected); });
}

TEST(SumSquares, CutsAtBlocksDoNotMatter) {
  constexpr std::int64_t kN = 5 * kNormBlock + 7;
  Array x = normal(DType::f32, {kN}, "x");
  const float* data = x.ref().as<float>();
  std::vector<double> whole(6), parts(6);
  sum_squares_blocks(data, kN, whole.data());
  sum_squares_blocks(data, 2 * kNormBlock, parts.data());
  sum_squares_blocks(data + 2 * kNormBlock, kN - 2 * kNormBlock, parts.data() + 2);
  EXPECT_EQ(whole, parts);
}

// By the sentence of elementwise.h, in double where it is exact.
std::uint64_t change_by_definition(float before, float after) {
  if (before == 0.0f) return 0;
  const float change = std::fabs((before - after) / before);
  if (!(change < 1.0f)) return std::uint64_t{1} << 30;
  return static_cast<std::uint64_t>(std::nearbyint(static_cast<double>(change) * kChangeUnits));
}

void expect_sum_of_changes(const std::vector<float>& before, const std::vector<float>& after, std::int64_t skip) {
  const auto n = static_cast<std::int64_t>(before.size()) - skip;
  std::uint64_t expected = 0;
  for (std::size_t i = static_cast<std::size_t>(skip); i < before.size(); ++i)
    expected += change_by_definition(before[i], after[i]);
  on_every_machine(
      [&](StreamRef stream) {
        Array x(DType::f32, {skip + n}), y(DType::f32, {skip + n}), sum(DType::i32, {2}),
            partials(DType::i32, {2 * kChangePartials});
        std::memcpy(x.ref().data, before.data(), 4 * before.size());
        std::memcpy(y.ref().data, after.data(), 4 * after.size());
        sum_relative_changes(
            {x.ref().as<float>() + skip, y.ref().as<float>() + skip, n, reinterpret_cast<std::uint64_t*>(sum.ref().data),
             reinterpret_cast<std::uint64_t*>(partials.ref().data)},
            stream);
        finish(stream);
        EXPECT_TRUE(sum.guard_is_intact() && partials.guard_is_intact());
        return Outputs{sum};
      },
      [&](const Outputs& out) {
        Array sum = out[0];
        std::uint64_t found = 0;
        std::memcpy(&found, sum.ref().data, sizeof found);
        EXPECT_EQ(found, expected);
      });
}

// Caught: an element that was 0 taken for one that changed by all of itself, halves rounded away from zero, threads that
// walk no further than their first elements. Of quotients between 2^-8 and 2^-7, as here, every other is a half.
TEST(SumRelativeChanges, IsTheSumOfEachElementsWhereverTheArraysBeginAndEnd) {
  std::vector<std::int64_t> lengths = {70001};
  if (!strata::testing::kSanitized) {
    lengths = kLengths;
    lengths.push_back(kChangePartials * 2048 + 700);  // more than a GPU's threads take at once
  }
  for (const std::int64_t n : lengths)
    for (const std::int64_t skip : {0, 3}) {
      if (n > 70001 && skip > 0) continue;
      SCOPED_TRACE(std::to_string(n) + " behind " + std::to_string(skip));
      Array x = normal(DType::f32, {skip + n}, "x", 0.0, 0.02), change = normal(DType::f32, {skip + n}, "change", 0.0, 1e-4);
      std::vector<float> before(x.ref().as<float>(), x.ref().as<float>() + skip + n), after = before;
      for (std::size_t i = 0; i < before.size(); ++i) {
        if (i % 7 == 0) before[i] = 0.0f;
        after[i] = before[i] - change.ref().as<float>()[i] * (i % 5 == 0 ? 1e-5f : 1.0f);
      }
      expect_sum_of_changes(before, after, skip);
    }
}

TEST(SumRelativeChanges, TakesEveryKindOfFloat) {
  const std::vector<float> values = interesting_floats();
  std::vector<float> before, after;
  for (std::size_t i = 0; i < values.size(); ++i)
    for (const std::size_t other : {i, i + 1, i + 15, values.size() - 1 - i, i * 37}) {
      before.push_back(values[i]);
      after.push_back(values[other % values.size()]);
    }
  expect_sum_of_changes(before, after, 0);
}

TEST(FindNonfinite, FindsTheFirst) {
  with_each_isa([] {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Array x = normal(dtype, {20000}, "x");
      EXPECT_EQ(find_nonfinite(x.ref()), -1);
      x.set(19999, std::numeric_limits<double>::infinity());
      EXPECT_EQ(find_nonfinite(x.ref()), 19999);
      x.set(8192, -std::numeric_limits<double>::infinity());
      EXPECT_EQ(find_nonfinite(x.ref()), 8192);
      x.set(17, std::numeric_limits<double>::quiet_NaN());
      EXPECT_EQ(find_nonfinite(x.ref()), 17);
    }
    Array integers(DType::i32, {3}), none(DType::f32, {0});
    integers.set(0, 0x7fc00000);
    EXPECT_EQ(find_nonfinite(integers.ref()), -1);
    EXPECT_EQ(find_nonfinite(none.ref()), -1);
  });
}

TEST(Elementwise, RefusesOtherShapesAndDtypes) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array a(DType::f32, {4}), b(DType::f32, {5}), c(DType::bf16, {4}), d(DType::i32, {4});
  EXPECT_THROW(add({.a = a.ref(), .b = b.ref(), .y = a.ref()}, stream), ContractViolation);
  EXPECT_THROW(add({.a = a.ref(), .b = c.ref(), .y = a.ref()}, stream), ContractViolation);
  EXPECT_THROW(cast({.x = a.ref(), .y = b.ref()}, stream), ContractViolation);
  EXPECT_THROW(cast({.x = a.ref(), .y = d.ref()}, stream), ContractViolation);
}

}  // namespace
}  // namespace strata::kernels
