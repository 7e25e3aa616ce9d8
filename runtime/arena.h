// Tier arenas: every byte that training uses in a tier comes from one arena with a hard budget, accounted by category.
//
// Ordering. Memory freed while earlier operations on it are still queued may be handed out again at once, because one
// stream uses it: the compute stream for activations and workspace. A buffer that another stream still uses must be kept
// alive by that stream's operation or by a lease until its event is complete.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "runtime/status.h"

namespace strata {

enum class Tier { gpu, cpu, nvme };
const char* to_string(Tier tier);

enum class Category { parameters, gradients, optimizer, activations, workspace, communication, io, other };
inline constexpr std::size_t kCategories = 8;
const char* to_string(Category category);

struct MemoryReport {
  std::size_t budget = 0;
  std::size_t in_use = 0;
  std::size_t peak = 0;                              // largest in_use so far
  std::array<std::size_t, kCategories> in_use_by{};  // indexed by Category
  std::array<std::size_t, kCategories> peak_by{};    // each category's own peak
};

class ArenaImpl;

// Owns a range of an arena; move-only; returns it on destruction from any thread.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer tmp(std::move(other));
    swap(tmp);
    return *this;
  }
  ~Buffer();
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  friend class TierArena;
  void swap(Buffer& other) noexcept;
  std::shared_ptr<ArenaImpl> arena_;  // an arena outlives its buffers
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t reserved_ = 0;
  Category category_ = Category::other;
};

// Thread-safe. Addresses are multiples of kAlignment, so that any buffer can be used for O_DIRECT and by any SIMD kernel.
class TierArena {
 public:
  static constexpr std::size_t kAlignment = 4096;
  enum class Backing {
    memory,  // anonymous memory, reserved at once, touched on use
    none     // addresses without memory behind them: a plan's dry run, which must never dereference
  };
  // budget: bytes. A budget of 0 refuses every allocation.
  TierArena(Tier tier, std::size_t budget, Backing backing = Backing::memory);

  // Uninitialised memory of `bytes` (rounded up to kAlignment for the budget). Error: out_of_budget, with what was asked,
  // what is in use by category and by how much it does not fit. `what` names the buffer in that message.
  Result<Buffer> allocate(std::size_t bytes, Category category, const char* what);

  Tier tier() const;
  MemoryReport report() const;
  // Forgets peaks (keeps what is in use), so that a phase can be measured alone.
  void reset_peaks();

 private:
  std::shared_ptr<ArenaImpl> impl_;
};

// One row a category: "gpu  activations  12.0 MiB (peak 40.1 MiB)".
std::string format_report(Tier tier, const MemoryReport& report);
// "1.50 GiB", "12.0 MiB", "512 B".
std::string format_bytes(std::size_t bytes);

}  // namespace strata
