#include "optim/torch_random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <numeric>
#include <random>
#include <utility>

namespace strata {
namespace {

constexpr std::size_t kGroup = 16;  // values that the vectorised way makes at once

class Engine {
 public:
  explicit Engine(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {}
  std::uint32_t u32() { return static_cast<std::uint32_t>(engine_()); }
  std::uint64_t u64() {
    const std::uint64_t high = u32();
    return high << 32 | u32();
  }
  float uniform() { return static_cast<float>(u32() & 0xffffffu) * 0x1p-24f; }
  double uniform53() { return static_cast<double>(u64() & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53; }

 private:
  std::mt19937 engine_;
};

// Sixteen uniform numbers become normal ones: the first half are radii, the second angles, both rounded to f32.
void make_normal(float* u) {
  constexpr std::size_t kHalf = kGroup / 2;
  for (std::size_t j = 0; j < kHalf; ++j) {
    const double radius = std::sqrt(-2.0f * std::log(1.0f - u[j]));
    const double angle = 2.0f * std::numbers::pi_v<float> * u[j + kHalf];
    u[j] = static_cast<float>(radius * std::cos(angle));
    u[j + kHalf] = static_cast<float>(radius * std::sin(angle));
  }
}

void few_normals(Engine& engine, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const double u1 = engine.uniform53(), u2 = engine.uniform53();
    const double radius = std::sqrt(-2.0 * std::log1p(-u2)), angle = 2.0 * std::numbers::pi * u1;
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace

void torch_randn(std::uint64_t seed, std::span<float> out) {
  Engine engine(seed);
  if (out.size() < kGroup) return few_normals(engine, out);
  for (float& value : out) value = engine.uniform();
  for (std::size_t i = 0; i + kGroup <= out.size(); i += kGroup) make_normal(out.data() + i);
  if (out.size() % kGroup == 0) return;
  const auto last = out.last(kGroup);  // drawn anew, over values that are made already
  for (float& value : last) value = engine.uniform();
  make_normal(last.data());
}

std::vector<std::int64_t> torch_randperm(std::uint64_t seed, std::int64_t n) {
  Engine engine(seed);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = 0; i + 1 < order.size(); ++i) std::swap(order[i], order[i + engine.u32() % (order.size() - i)]);
  return order;
}

std::uint64_t next_apollo_seed(std::uint64_t seed) {
  Engine engine(seed);
  std::uint64_t last = 0;
  for (int draw = 0; draw < 15; ++draw) last = engine.u64();
  return last % ((std::uint64_t{1} << 63) - 1);
}

}  // namespace strata
