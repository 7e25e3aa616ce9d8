// Memory whose neighbours on both sides cannot be touched: an access beside an allocation stops the kernel that made it
// (global_faults.h) or kills the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "runtime/status.h"

namespace strata::gpu_emulated {

// Thread-safe.
class GuardedMemory {
 public:
  GuardedMemory() = default;
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // `bytes` at a multiple of `alignment` (a power of two, at most 4096) that end at a page which cannot be touched, or, where
  // `bytes` is not a multiple of `alignment`, less than that before it; there, bytes beside the allocation are noticed by
  // free(). Contents: all bits set (a NaN in every type) up to 16 MiB, zero beyond. Error: out_of_budget.
  Result<std::byte*> allocate(std::size_t bytes, std::size_t alignment);
  // false: something was written into the slack between the allocation and its guards.
  bool free(std::byte* data);
  bool is_intact(const std::byte* data) const;  // what free() would say

  std::size_t count() const;
  std::size_t bytes() const;
  // Whether all of the range lies in one allocation.
  bool contains(const void* data, std::size_t bytes) const;
  // Whether the range begins in an allocation and ends behind it.
  bool overhangs(const void* data, std::size_t bytes) const;
  // "0x7f..0, 4 bytes behind the end of the 256 bytes at 0x7f..": an address and its nearest allocation.
  std::string describe(const void* address) const;

 private:
  struct Allocation {
    std::size_t bytes = 0;
    std::byte* pages = nullptr;  // that can be touched
    std::size_t page_bytes = 0;
  };
  static void unmap(const Allocation& allocation);
  static bool is_intact(const std::byte* data, const Allocation& allocation);

  mutable std::mutex mutex_;
  std::map<std::uintptr_t, Allocation> allocations_;
  std::size_t bytes_ = 0;
};

}  // namespace strata::gpu_emulated
