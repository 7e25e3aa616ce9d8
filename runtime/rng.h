// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// A value is a pure function of (seed, stream, index), so any rank can draw any slice of any tensor.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace strata {

// One block of four 32-bit words for a 128-bit counter and a 64-bit key.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// A stream of values of its own for each (seed, stream). Copyable, immutable, thread-safe.
class Philox {
 public:
  Philox(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  // Value `index`; neighbours share a block but are independent.
  std::uint32_t u32(std::uint64_t index) const;
  std::uint64_t u64(std::uint64_t index) const;
  // In [0, 1), 24 bits.
  float uniform(std::uint64_t index) const { return static_cast<float>(u32(index) >> 8) * 0x1p-24f; }
  // Values [first, first + out.size()) of the stream's normal distribution, at most 6.7 deviations from the mean: the same bits
  // on every processor (runtime/kernels/normal_rule.h). Drawn by groups of 128, so one takes as long as 128 of the same group.
  void normal(std::uint64_t first, float mean, float stddev, std::span<float> out) const;

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

// A stream id from a name (FNV-1a, 64 bit): "parameter/layers.0.mlp.up_proj.weight".
std::uint64_t stream_id(std::string_view name);

// A permutation of [0, n) as a function, without a table: a Feistel network keyed by (seed, epoch), cycle-walked.
class Permutation {
 public:
  Permutation(std::uint64_t n, std::uint64_t seed, std::uint64_t epoch);
  std::uint64_t operator()(std::uint64_t i) const;  // i < n
  std::uint64_t size() const { return n_; }

 private:
  std::uint64_t round_trip(std::uint64_t x) const;
  std::uint64_t n_;
  std::uint32_t half_bits_;
  std::array<std::array<std::uint32_t, 2>, 6> keys_;
};

}  // namespace strata
