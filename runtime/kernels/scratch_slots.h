// One piece of scratch memory for each thread that works on an operation at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/status.h"

namespace strata::kernels {

class ScratchSlots {
 public:
  static constexpr std::size_t kAlignment = 64;

  // `slots` pieces of at least `bytes`, uninitialised, of memory of their own.
  ScratchSlots(int slots, std::size_t bytes) {
    const std::size_t step = round_up(bytes);
    memory_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(slots) * step + kAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    cut(memory_.get() + (round_up(address) - address), slots, step);
  }
  // The same of the caller's memory; it and `bytes` are multiples of kAlignment.
  ScratchSlots(std::byte* memory, int slots, std::size_t bytes) {
    STRATA_CHECK(reinterpret_cast<std::uintptr_t>(memory) % kAlignment == 0 && bytes % kAlignment == 0, "scratch alignment");
    cut(memory, slots, bytes);
  }
  ScratchSlots(const ScratchSlots&) = delete;
  ScratchSlots& operator=(const ScratchSlots&) = delete;

  static constexpr std::size_t round_up(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  // The use of one piece, by one thread.
  class Lease {
   public:
    explicit Lease(ScratchSlots& slots) : slots_(slots), data_(slots.take()) {}
    ~Lease() { slots_.give(data_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    std::byte* data() const { return data_; }

   private:
    ScratchSlots& slots_;
    std::byte* data_;
  };

 private:
  void cut(std::byte* first, int slots, std::size_t step) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(slots); ++i) free_.push_back(first + i * step);
  }
  std::byte* take() {
    const std::lock_guard lock(mutex_);
    STRATA_CHECK(!free_.empty(), "more threads than slots");
    std::byte* data = free_.back();
    free_.pop_back();
    return data;
  }
  void give(std::byte* data) {
    const std::lock_guard lock(mutex_);
    free_.push_back(data);
  }
  std::unique_ptr<std::byte[]> memory_;
  std::mutex mutex_;
  std::vector<std::byte*> free_;
};

}  // namespace strata::kernels
