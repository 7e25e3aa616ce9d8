// A kernel launch as the emulator's queue takes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace strata::gpu_emulated {

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

struct Launch {
  const void* kernel = nullptr;  // its address: what names it
  Grid grid;
  int threads = 0;
  std::size_t shared_bytes = 0;
  std::function<void()> body;  // runs the kernel as the thread that is current
};

// What GpuQueue::native() of an emulated queue points to.
class KernelQueue {
 public:
  virtual void launch(Launch launch) = 0;

 protected:
  ~KernelQueue() = default;
};

}  // namespace strata::gpu_emulated
