// The emulator's body of runtime/gpu/device.h: the names of device_cuda.h, run on the CPU with checks behind them.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>
#include <string>
#include <type_traits>

#include "runtime/dtype.h"
#include "runtime/gpu/driver.h"
#include "runtime/gpu/fault.h"
#include "tests/emulator/block.h"
#include "tests/emulator/launch.h"
#include "tests/emulator/shared_array.h"
#include "tests/emulator/warp.h"

#define STRATA_GPU gpu_emulated
#define STRATA_KERNEL inline void
#define STRATA_DEVICE inline
#define STRATA_LAUNCH_BOUNDS(threads, blocks)
#define STRATA_UNROLL

namespace strata::gpu_emulated {

// ---- where a thread is ----
inline int thread_index() { return running_block->thread(); }
inline int block_threads() { return running_block->threads(); }
inline int lane_index() { return running_block->thread() % kWarp; }
inline int warp_index() { return running_block->thread() / kWarp; }
inline std::int64_t block_x() { return running_block->place().x; }
inline std::int64_t block_y() { return running_block->place().y; }
inline std::int64_t block_z() { return running_block->place().z; }
inline std::int64_t blocks_x() { return running_block->grid().x; }

inline void sync_block(std::source_location where = std::source_location::current()) { running_block->sync_block(where); }
inline void sync_warp(std::source_location where = std::source_location::current()) { running_block->sync_warp(where); }

// ---- 16 bytes at once ----
template <class T, int kBytes = 16>
struct alignas(kBytes) Pack {
  static constexpr int kCount = kBytes / static_cast<int>(sizeof(T));
  T values[kCount];
  T& operator[](int i) { return values[i]; }
  const T& operator[](int i) const { return values[i]; }
};
inline void check_place(const void* address, int bytes, std::source_location where) {
  if (reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(bytes) != 0) [[unlikely]]
    running_block->fail("accesses " + std::to_string(bytes) +
                            " bytes of global memory at an address that is not a multiple of " + std::to_string(bytes),
                        where);
  running_block->check_pack(address, static_cast<std::size_t>(bytes), where);
}
template <class T>
Pack<T> load_pack(const T* from, std::source_location where = std::source_location::current()) {
  check_place(from, 16, where);
  Pack<T> pack;
  std::memcpy(static_cast<void*>(&pack), from, sizeof(pack));
  return pack;
}
template <class T, int kBytes>
void store_pack(T* to, const Pack<T, kBytes>& pack, std::source_location where = std::source_location::current()) {
  check_place(to, kBytes, where);
  std::memcpy(static_cast<void*>(to), &pack, sizeof(pack));
}
template <class T>
Pack<T> load_pack(const SharedArray<T>& from, int i, std::source_location where = std::source_location::current()) {
  Pack<T> pack;
  std::memcpy(static_cast<void*>(&pack), running_block->read_shared(from.place_of_16_bytes(i, where), 16, where), 16);
  return pack;
}
template <class T>
void store_pack(const SharedArray<T>& to, int i, const Pack<T>& pack,
                std::source_location where = std::source_location::current()) {
  std::memcpy(running_block->write_shared(to.place_of_16_bytes(i, where), 16, where), &pack, 16);
}

// ---- arithmetic: without contraction (-ffp-contract=off) the compiler's own is rounded once ----
inline float add_rn(float a, float b) { return a + b; }
inline float sub_rn(float a, float b) { return a - b; }
inline float mul_rn(float a, float b) { return a * b; }
inline float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float div_rn(float a, float b) { return a / b; }
inline float sqrt_rn(float a) { return std::sqrt(a); }
inline double add_rn(double a, double b) { return a + b; }
inline double mul_rn(double a, double b) { return a * b; }
inline double div_rn(double a, double b) { return a / b; }
inline double sqrt_rn(double a) { return std::sqrt(a); }
inline float exp_approx(float x) { return std::exp(x); }
inline float exp2_approx(float x) { return std::exp2(x); }
inline float exp2_flushed(float x) {
  const float power = std::exp2(x);
  return power < std::numeric_limits<float>::min() ? 0.0f : power;
}
inline float log_approx(float x) { return std::log(x); }
inline float max_of(float a, float b) { return std::fmax(a, b); }

// ---- conversions ----
inline float bits_to_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t float_to_bits(float x) { return std::bit_cast<std::uint32_t>(x); }
inline std::uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}

// ---- asynchronous copies: they arrive as late as they may ----
template <class T>
void copy_async(const SharedArray<T>& to, int i, const T* from, bool valid,
                std::source_location where = std::source_location::current()) {
  if (valid) check_place(from, 16, where);
  running_block->copy_later(to.place_of_16_bytes(i, where), from, valid, where);
}
inline void copy_async_commit() { running_block->commit_copies(); }
template <int kPending>
void copy_async_wait() {
  static_assert(kPending >= 0);
  running_block->wait_copies(kPending);
}

inline void report_fault(GpuFault* fault, GpuFaultKind kind, std::int64_t row, std::int32_t value, std::int64_t limit) {
  std::uint32_t none = 0;
  if (!std::atomic_ref(fault->kind).compare_exchange_strong(none, static_cast<std::uint32_t>(kind))) return;
  fault->row = row;
  fault->value = value;
  fault->limit = limit;
}

template <class... Params, class... Args>
void launch(GpuQueue& queue, void (*kernel)(Params...), Grid grid, int threads, std::size_t shared_bytes, Args... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "parameters are copied to the device byte by byte");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  static_cast<KernelQueue*>(queue.native())
      ->launch({.kernel = reinterpret_cast<const void*>(kernel),
                .grid = grid,
                .threads = threads,
                .shared_bytes = shared_bytes,
                .body = [=] { kernel(args...); }});
}

}  // namespace strata::gpu_emulated
