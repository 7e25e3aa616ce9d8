// Tier arenas: parameters, gradients, optimizer state, activations and workspaces of a tier come from one arena with a hard
// budget, accounted by category. Not in it: scratch of host kernels that does not grow with the batch (a thread: attention
// forward 16 KiB + H KiB, a matrix product 1 MiB and what oneDNN takes for one tile; norm gradients 512 C bytes in all), the
// channels between ranks, and what reading data and writing checkpoints takes.
//
// Ordering. Memory freed while earlier operations on it are still queued may be handed out again at once, because one
// stream uses it: the compute stream for activations and workspace. A buffer that another stream still uses must be kept
// alive by that stream's operation or by a lease until its event is complete.
//
// Placement. An address is a function of the live buffers and of the size asked for, not of the budget nor of time: the
// smallest hole between live buffers that is long enough (the lowest of equal ones), else behind the last live buffer. So the
// same calls in an arena whose budget is the first one's high_water succeed at the same addresses, which is what makes a plan's
// dry run binding, and a step that begins with the same live buffers takes the same addresses again. It holds as long as one
// thread makes the calls: a run's driving thread does, for operations on streams hold references and no buffers.
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
  std::size_t peak = 0;        // largest in_use so far
  std::size_t high_water = 0;  // largest end of a buffer so far: the peak and what holes between buffers cost
  std::array<std::size_t, kCategories> in_use_by{};  // indexed by Category
  std::array<std::size_t, kCategories> peak_by{};    // each category's own peak
};

class ArenaImpl;
class Device;
class TierArena;

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
  // Addresses of arenas come again, this does not: a buffer keeps its arena.
  bool is_from(const TierArena& arena) const;

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
  // budget: bytes, and the length of the arena's address range, so no more memory than this becomes resident. A budget of 0
  // refuses every allocation.
  TierArena(Tier tier, std::size_t budget, Backing backing = Backing::memory);
  // Of `device`, whose GPU the arena and its buffers keep alive. The dry backend has no memory behind it. On the cuda backend
  // all of the budget is taken from the GPU at once (gpu tier), or page-locked in the host's memory (cpu tier) so that copies
  // to and from the GPU run beside both processors. Host memory is placed beside the device's cores, where it has some. Throws
  // StatusError (out_of_budget) when there is not as much.
  TierArena(Tier tier, std::size_t budget, const Device& device);

  // Uninitialised memory of `bytes` (rounded up to kAlignment for the budget). Error: out_of_budget, with what was asked,
  // what is in use by category, and by how much it does not fit or which budget the holes call for. `what` names the buffer in
  // that message.
  Result<Buffer> allocate(std::size_t bytes, Category category, const char* what);

  Tier tier() const;
  MemoryReport report() const;

 private:
  friend class Buffer;
  std::shared_ptr<ArenaImpl> impl_;
};

// "1.50 GiB", "12.0 MiB", "512 B".
std::string format_bytes(std::size_t bytes);

}  // namespace strata
