// A GPU made of CPU threads, for tests: everything above runtime/gpu/driver.h runs on it, and kernels with the checks of
// gpu_emulated.h. Bits of kernels are those of the source, not of a real GPU's approximations and tensor cores.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "runtime/gpu/library_attention.h"
#include "tests/emulator/emulated_queue.h"

namespace strata::gpu_emulated {

class EmulatedDriver : public GpuDriver {
 public:
  struct Options {
    int multiprocessors = 4;
    std::size_t memory_bytes = std::size_t{4} << 30;  // address space until it is touched
    GpuReadings readings = {.power_watts = 250.0, .temperature_celsius = 51};
    bool refuses_epilogues = false;              // as a library that has no fused products (gpu/gemm_epilogue.h)
    bool library_attention = false;              // emulated_attention.h
    const GuardedMemory* host_memory = nullptr;  // of the caller, known to the checks as the device's is; outlives the driver
    std::string file_library = {};               // empty: the one of fake_cufile.cpp
  };
  // kernels: outlives the driver.
  explicit EmulatedDriver(const GpuKernels& kernels);
  EmulatedDriver(const GpuKernels& kernels, Options options);
  ~EmulatedDriver() override;  // after its queues

  const GpuProperties& properties() const override { return device_.properties; }
  const GpuKernels& kernels() const override { return kernels_; }
  // Between pages that cannot be touched. Contents: all bits set, up to 16 MiB.
  Result<std::byte*> allocate_device(std::size_t bytes) override;
  void free_device(std::byte* data) override;
  Result<std::byte*> allocate_pinned(std::size_t bytes) override;
  void free_pinned(std::byte* data, std::size_t bytes) override;
  Result<std::unique_ptr<GpuQueue>> make_queue(const char* name) override;
  Result<std::shared_ptr<GpuCounter>> make_counter() override;
  Status use_on_this_thread() override { return {}; }
  std::string file_library() const override { return file_library_; }
  Result<GpuReadings> readings() override { return readings_; }
  // By the host's library, on the queue's thread: the host's bits.
  void gemm(const kernels::Gemm& gemm, GpuQueue& queue) override;
  GpuAttention* attention() override { return attention_.get(); }

  Counts::Values counts() const { return device_.counts.values(); }
  std::size_t live_allocations() const { return device_.device_memory.count() + device_.pinned_memory.count(); }
  // For tests that want an array to end at a page that cannot be touched.
  GuardedMemory& memory() { return device_.device_memory; }

 private:
  const GpuKernels& kernels_;
  const GpuReadings readings_;
  const bool refuses_epilogues_;
  const std::string file_library_;
  EmulatedDevice device_;
  std::unique_ptr<GpuAttention> attention_;
};

// With all kernels of the tree and their tables.
std::unique_ptr<EmulatedDriver> make_emulated_driver();
std::unique_ptr<EmulatedDriver> make_emulated_driver(EmulatedDriver::Options options);

}  // namespace strata::gpu_emulated
