// Turns an access to memory that cannot be touched, made by a kernel's thread, into a finding of its block.
#pragma once

#include <signal.h>

#include <cstddef>
#include <memory>

namespace strata::gpu_emulated {

// While one lives, SIGSEGV and SIGBUS on its thread are handled: inside of a kernel the thread continues in
// Block::fail_global(), elsewhere whoever handled the signal before does. Not movable; destroyed by its thread.
class GlobalFaults {
 public:
  GlobalFaults();
  ~GlobalFaults();
  GlobalFaults(const GlobalFaults&) = delete;
  GlobalFaults& operator=(const GlobalFaults&) = delete;

 private:
  static constexpr std::size_t kStack = 64 * 1024;
  stack_t before_ = {};
  std::unique_ptr<std::byte[]> stack_;  // of the handler: the thread's own may be what overflowed
};

}  // namespace strata::gpu_emulated
