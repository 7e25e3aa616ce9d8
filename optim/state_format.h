// How an optimizer's states are stored: in blocks of elements, which begin at a parameter's element 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace strata {

struct StateFormat {
  std::int64_t block = 1;        // elements of a parameter, the last ones of it may be fewer
  std::int64_t block_bytes = 4;  // of a state's block, whole or not
  // Of n elements from the beginning of a block on.
  constexpr std::int64_t bytes(std::int64_t n) const { return (n + block - 1) / block * block_bytes; }
  bool operator==(const StateFormat&) const = default;
};

inline constexpr StateFormat kF32States{};
// Rounded stochastically (state_noise.h).
inline constexpr StateFormat kBf16States{.block = 1, .block_bytes = 2};
// Codes and the block's largest magnitude (state_codes.h): words of 4 bytes.
inline constexpr StateFormat kEightBitStates{.block = 256, .block_bytes = 260};

// As in `optimizer.state_dtype` and checkpoints.
constexpr const char* to_string(const StateFormat& format) {
  if (format == kBf16States) return "bf16";
  if (format == kEightBitStates) return "8bit";
  return "fp32";
}

constexpr std::optional<StateFormat> state_format_of(std::string_view name) {
  for (const StateFormat& format : {kF32States, kBf16States, kEightBitStates})
    if (name == to_string(format)) return format;
  return std::nullopt;
}

// What an optimizer that offers formats is given.
struct StateStorage {
  StateFormat format = kF32States;
  std::uint64_t seed = 0;  // of the noise that rounds
};

}  // namespace strata
