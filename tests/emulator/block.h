// Runs the threads of a block as fibres on the calling thread, in one fixed order: a thread runs until it waits for its warp or
// for the block, then the next one of its warp, then the next warp. Checks what device.h demands; the first finding ends the
// launch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "tests/emulator/fibre.h"
#include "tests/emulator/launch.h"
#include "tests/emulator/shadow.h"

namespace strata::gpu_emulated {

class GuardedMemory;

inline constexpr int kWarp = 32;
inline constexpr int kMaxThreads = 1024;

// What the lanes of a warp give each other in one operation.
struct Exchange {
  std::uint32_t words[kWarp][12];
};

class Block {
 public:
  // Of the calling thread alone. memory, and host_memory where there is one: what kernels touch, with names for messages.
  explicit Block(const GuardedMemory& memory, const GuardedMemory* host_memory = nullptr);

  // All blocks of the launch, in order; the first finding.
  Status run(const Launch& launch);

  // ---- for the kernel's threads ----
  int thread() const { return thread_; }
  int threads() const { return thread_count_; }
  const Grid& place() const { return place_; }
  const Grid& grid() const { return grid_; }

  void sync_block(std::source_location where);
  void sync_warp(std::source_location where);
  // Where the lanes of the current warp leave their parts before meet_warp() and find the others' after it, until they reach
  // the warp's next operation.
  Exchange& exchange() {
    Warp& warp = warps_[static_cast<std::size_t>(thread_ / kWarp)];
    return warp.exchange[warp.turn];
  }
  // Returns when all lanes of the warp are here; the last one first calls complete(warp, its exchange).
  using Complete = void (*)(Block& block, int warp, Exchange& exchange);
  void meet_warp(const char* operation, std::source_location where, Complete complete = nullptr);

  // Shared memory at a byte offset; the range is inside of it. An access that is not clean ends the launch.
  const std::byte* read_shared(std::size_t offset, std::size_t bytes, std::source_location where) {
    return read_shared(thread_, offset, bytes, where);
  }
  // As a thread that waits in the current meeting.
  const std::byte* read_shared_in_meeting(int thread, std::size_t offset, std::size_t bytes) {
    return read_shared(thread, offset, bytes, threads_[static_cast<std::size_t>(thread)].where);
  }
  std::byte* write_shared(std::size_t offset, std::size_t bytes, std::source_location where);
  std::size_t shared_bytes() const { return shared_bytes_; }

  // 8 or 16 bytes of global memory that are touched at once: an access that ends behind an allocation ends the launch. Only
  // where no guard would notice: in the last bytes before one.
  void check_pack(const void* address, std::size_t bytes, std::source_location where) {
    if (reinterpret_cast<std::uintptr_t>(address) % 4096 == 4096 - bytes) [[unlikely]]
      check_end(address, bytes, where);
  }

  // 16 bytes (zeros when !valid) that arrive when the current thread waits for their group.
  void copy_later(std::size_t offset, const void* from, bool valid, std::source_location where);
  void commit_copies();
  void wait_copies(std::size_t pending);

  // Ends the launch with what the current thread did wrong. Throws what only run_thread() catches.
  [[noreturn]] void fail(const std::string& what, std::source_location where) { fail_thread(thread_, what, where); }
  [[noreturn]] void fail_thread(int thread, const std::string& what, std::source_location where);
  // Called instead of what touched `fault_address` (global_faults.h).
  [[noreturn]] void fail_global();
  void* fault_address = nullptr;
  bool is_stack_guard(const void* address) const { return fibres_.is_stack_guard(address); }
  // Of the current thread, which will not go on: the top of its stack.
  std::uintptr_t emptied_stack();

 private:
  struct Stopped {};
  enum class State : std::uint8_t { ready, at_warp, at_block, finished };
  struct AsyncCopy {
    std::size_t offset;
    std::array<std::byte, 16> data;
  };
  struct Thread {
    State state = State::ready;
    Fibre* fibre = nullptr;           // null: not begun
    const char* operation = nullptr;  // where it waits
    std::source_location where;
    std::vector<AsyncCopy> copies;
    std::vector<std::size_t> groups;  // ends in `copies` of the committed ones
  };
  struct Warp {
    std::uint32_t ready = 0;    // lanes, as bits
    std::uint32_t arrived = 0;  // at the current operation
    int turn = 0;               // which exchange it uses; the other one may still be read
    std::uint32_t time = 0;     // of the last barrier or sync_warp
    alignas(16) Exchange exchange[2];
  };

  static void live();  // a fibre's life
  void carry_threads();
  void run_thread();
  bool run_block();
  int pick();
  void note_arrival(State state, const char* operation, std::source_location where);
  void run_others();
  void release(int warp, std::uint32_t lanes);
  void check_meeting(int first, int count);
  std::string whereabouts(int warp) const;
  void note_divergence();
  void note_global_fault();
  void check_end(const void* address, std::size_t bytes, std::source_location where);
  std::string describe(const void* address) const;
  [[noreturn]] void leave_launch();
  const std::byte* read_shared(int thread, std::size_t offset, std::size_t bytes, std::source_location where);
  Moment moment(int thread) const;
  [[noreturn]] void fail_shared(int thread, const char* did, std::size_t offset, std::size_t bytes, Finding finding,
                                std::source_location where);
  std::string where_am_i(int thread) const;

  const GuardedMemory& memory_;
  const GuardedMemory* const host_memory_;
  FibrePool fibres_;
  const Launch* launch_ = nullptr;
  Grid place_, grid_;
  int thread_ = 0;  // that runs
  int thread_count_ = 0, warp_count_ = 0;
  int finished_ = 0, at_block_ = 0;
  std::uint32_t ready_warps_ = 0;  // as bits
  std::array<Thread, kMaxThreads> threads_;
  std::array<Warp, kMaxThreads / kWarp> warps_;
  std::uint32_t clock_ = 0, block_time_ = 0, first_time_ = 0;
  std::size_t shared_bytes_ = 0;
  std::vector<std::byte> shared_;
  Shadow shadow_;
  std::string finding_;  // what ended the launch
};

// Of the calling thread while a kernel's thread runs on it, else null. Kernels take no argument by which they could find it.
extern constinit thread_local Block* running_block;

}  // namespace strata::gpu_emulated
