// What the lanes of a warp do together, on the emulator: all 32 must be at the same operation of the source.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>
#include <string>
#include <type_traits>

#include "runtime/dtype.h"
#include "tests/emulator/block.h"
#include "tests/emulator/shared_array.h"

namespace strata::gpu_emulated {

// The value of lane `source` of the current warp.
template <class T>
T exchange_lanes(const char* operation, const T& value, int source, std::source_location where) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a shuffle moves 4 or 8 bytes");
  if (source < 0 || source >= kWarp) [[unlikely]]
    running_block->fail(std::string(operation) + " asks for lane " + std::to_string(source), where);
  Exchange& exchange = running_block->exchange();
  std::memcpy(exchange.words[running_block->thread() % kWarp], &value, sizeof(T));
  running_block->meet_warp(operation, where);
  T result;
  std::memcpy(&result, exchange.words[source], sizeof(T));
  return result;
}

template <class T>
T shuffle_xor(T value, int mask, std::source_location where = std::source_location::current()) {
  return exchange_lanes("shuffle_xor", value, running_block->thread() % kWarp ^ mask, where);
}
template <class T>
T shuffle(T value, int lane, std::source_location where = std::source_location::current()) {
  return exchange_lanes("shuffle", value, lane, where);
}
template <class T>
T shuffle_down(T value, int delta, std::source_location where = std::source_location::current()) {
  const int lane = running_block->thread() % kWarp;
  return exchange_lanes("shuffle_down", value, delta >= 0 && lane + delta >= kWarp ? lane : lane + delta, where);
}

// Products are exact, sums f32 in the order of the inner dim. (Tensor cores sum in an order and with roundings of their own.)
void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                 std::source_location where = std::source_location::current());
void load_matrices(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i,
                   std::source_location where = std::source_location::current());
void load_matrices_transposed(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i,
                              std::source_location where = std::source_location::current());

}  // namespace strata::gpu_emulated
