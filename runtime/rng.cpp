#include "runtime/rng.h"

#include <algorithm>
#include <bit>

#include "runtime/kernels/normal_rule.h"
#include "runtime/kernels/normal_table.h"
#include "runtime/status.h"

namespace strata {
namespace {

class Words;

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  using Rule = kernels::PhiloxRule<Words>;
  for (int round = 0; round < Rule::kRounds; ++round) {
    Rule::round(c[0], c[1], c[2], c[3], k[0], k[1]);
    Rule::next_keys(k[0], k[1]);
  }
  return c;
}

namespace {

std::array<std::uint32_t, 4> block(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  return philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                     static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                    {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

}  // namespace

std::uint32_t Philox::u32(std::uint64_t index) const { return block(seed_, stream_, index / 4)[index % 4]; }

std::uint64_t Philox::u64(std::uint64_t index) const {
  const auto b = block(seed_, stream_, index / 2);
  return index % 2 == 0 ? (std::uint64_t{b[1]} << 32 | b[0]) : (std::uint64_t{b[3]} << 32 | b[2]);
}

void Philox::normal(std::uint64_t first, float mean, float stddev, std::span<float> out) const {
  const auto fill = kernels::normal_table().fill;
  const kernels::NormalStream stream{.seed = seed_, .stream = stream_, .mean = mean, .deviation = stddev};
  constexpr std::size_t kGroup = kernels::kNormalGroup;
  std::array<float, kGroup> group;
  while (!out.empty()) {
    const std::uint64_t number = first / kGroup;
    const auto begin = static_cast<std::size_t>(first % kGroup);
    std::size_t n = out.size() / kGroup * kGroup;
    if (begin == 0 && n > 0) {
      fill(stream, number, static_cast<std::int64_t>(n / kGroup), out.data());
    } else {
      fill(stream, number, 1, group.data());
      n = std::min(kGroup - begin, out.size());
      std::copy_n(group.begin() + begin, n, out.begin());
    }
    out = out.subspan(n);
    first += n;
  }
}

std::uint64_t stream_id(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

Permutation::Permutation(std::uint64_t n, std::uint64_t seed, std::uint64_t epoch) : n_(n) {
  const int bits = n <= 2 ? 2 : static_cast<int>(std::bit_width(n - 1));
  half_bits_ = static_cast<std::uint32_t>((bits + 1) / 2);
  const Philox draw(seed, stream_id("permutation") ^ epoch);
  for (std::size_t r = 0; r < keys_.size(); ++r) keys_[r] = {draw.u32(2 * r), draw.u32(2 * r + 1)};
}

std::uint64_t Permutation::round_trip(std::uint64_t x) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = x >> half_bits_;
  std::uint64_t right = x & mask;
  for (const auto& key : keys_) {
    const auto f = philox4x32({static_cast<std::uint32_t>(right), static_cast<std::uint32_t>(right >> 32), 0, 0}, key);
    const std::uint64_t next = left ^ ((std::uint64_t{f[1]} << 32 | f[0]) & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

std::uint64_t Permutation::operator()(std::uint64_t i) const {
  STRATA_CHECK(i < n_, "index outside the permutation");
  do i = round_trip(i);
  while (i >= n_);
  return i;
}

}  // namespace strata
