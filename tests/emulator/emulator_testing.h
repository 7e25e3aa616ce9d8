// What the emulator's tests share: a driver without kernels of its own, arrays that end at a page which cannot be touched.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "runtime/gpu/device.h"
#include "runtime/gpu/kernel_table.h"
#include "tests/emulator/emulated_driver.h"

namespace strata::gpu_emulated {

class EmulatorTest : public ::testing::Test {
 protected:
  EmulatorTest() : queue_(driver_.make_queue("test").value()) {}

  // n elements of T with nothing behind them.
  template <class T>
  T* guarded(std::size_t n) {
    return reinterpret_cast<T*>(driver_.memory().allocate(n * sizeof(T), alignof(T)).value());
  }
  // The queue's status when everything so far has run.
  Status finish() { return queue_->mark()->wait(); }
  void expect_ok() {
    const Status status = finish();
    EXPECT_TRUE(status.ok()) << status.message();
  }
  void expect_finding(const std::vector<std::string>& parts) {
    const Status status = finish();
    EXPECT_EQ(status.code(), Code::internal);
    for (const std::string& part : parts)
      EXPECT_NE(status.message().find(part), std::string::npos) << part << "\nin: " << status.message();
  }
  // Runs kernel(args...) in one block.
  template <class... Params, class... Args>
  void run(void (*kernel)(Params...), int threads, std::size_t shared_bytes, Args... args) {
    launch(*queue_, kernel, {}, threads, shared_bytes, args...);
  }

  const GpuKernels no_kernels_{};
  EmulatedDriver driver_{no_kernels_};
  std::unique_ptr<GpuQueue> queue_;
};

}  // namespace strata::gpu_emulated
