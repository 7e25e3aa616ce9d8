// The optimizers whose bodies are compared, and their inputs: any bit pattern, guarded and misaligned.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <memory_resource>
#include <vector>

#include "optim/adamw.h"
#include "optim/adamw_transformers.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "tests/machines/machines.h"

namespace strata::update_testing {

inline std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

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
  Guarded(std::size_t n, std::size_t offset, T sentinel)
      : n_(n), all_(n + 2 * kGuard + 64, sentinel, &testing::shared_memory()), sentinel_(sentinel) {
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
  std::pmr::vector<T> all_;
  T sentinel_;
};

using Offsets = std::array<std::size_t, 5>;  // of p, both states, g, p16, in elements

struct State {
  State(std::size_t n, std::size_t offset) : State(n, {offset, offset * 3, offset * 5, offset * 7, offset * 11}) {}
  State(std::size_t n, const Offsets& offsets)
      : p(n, offsets[0], -7.0f),
        first(n, offsets[1], -7.0f),
        second(n, offsets[2], -7.0f),
        g(n, offsets[3], -7.0f),
        g16(n, offsets[3], {0xabcd}),
        p16(n, offsets[4], {0xabcd}) {}
  void fill(std::size_t n, std::uint64_t seed) {
    Values values(seed);
    for (std::size_t i = 0; i < n; ++i) {
      p.data()[i] = values.any();
      first.data()[i] = values.any();
      second.data()[i] = i % 16 == 3 ? values.any() : std::abs(values.any());
      g.data()[i] = values.any();
      g16.data()[i].bits = static_cast<std::uint16_t>(bits(values.any()) >> 16);
    }
  }
  UpdateSlice slice(std::size_t begin, std::size_t n, bool with16, bool gradient16 = false) {
    return {.p = p.data() + begin,
            .states = {first.data() + begin, second.data() + begin},
            .g = gradient16 ? nullptr : g.data() + begin,
            .g16 = gradient16 ? g16.data() + begin : nullptr,
            .p16 = with16 ? p16.data() + begin : nullptr,
            .n = static_cast<std::int64_t>(n)};
  }
  bool guards_intact() const {
    return p.guards_intact() && first.guards_intact() && second.guards_intact() && g.guards_intact() && g16.guards_intact() &&
           p16.guards_intact();
  }
  Guarded<float> p, first, second, g;
  Guarded<bf16> g16, p16;
};

inline ::testing::AssertionResult same(State& a, State& b, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (bits(a.p.data()[i]) != bits(b.p.data()[i])) return ::testing::AssertionFailure() << "p[" << i << "]";
    if (bits(a.first.data()[i]) != bits(b.first.data()[i])) return ::testing::AssertionFailure() << "first state[" << i << "]";
    if (bits(a.second.data()[i]) != bits(b.second.data()[i]))
      return ::testing::AssertionFailure() << "second state[" << i << "]";
    if (a.p16.data()[i].bits != b.p16.data()[i].bits) return ::testing::AssertionFailure() << "p16[" << i << "]";
  }
  return ::testing::AssertionSuccess();
}

// Every optimizer that computes element by element; under a sanitizer one with two states and one with the most cases.
struct Method {
  const char* name;
  std::shared_ptr<const Optimizer> optimizer;
};
inline std::vector<Method> methods() {
  std::vector<Method> all = {{"AdamW", std::make_shared<AdamW>()},
                             {"Nesterov", std::make_shared<Sgd>(SgdConfig{.momentum = 0.9, .nesterov = true})}};
  if (testing::kSanitized) return all;
  all.push_back({"TransformersAdamW", std::make_shared<TransformersAdamW>()});
  all.push_back({"Lion", std::make_shared<Lion>()});
  all.push_back({"Sgd", std::make_shared<Sgd>()});
  all.push_back({"Momentum", std::make_shared<Sgd>(SgdConfig{.momentum = 0.9})});
  return all;
}
inline constexpr UpdateStep kStep{.number = 7, .lr = 3e-4, .grad_scale = 0.37};
inline constexpr ParamGroup kDecays{.weight_decay = 0.1};

}  // namespace strata::update_testing
