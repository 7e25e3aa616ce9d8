// A GPU's queue as a worker thread: closures one after another, kernels among them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "runtime/gpu/driver.h"
#include "tests/emulator/guarded_memory.h"
#include "tests/emulator/launch.h"

namespace strata::gpu_emulated {

// What happened so far on all queues of a driver. Thread-safe.
class Counts {
 public:
  struct Values {
    std::map<std::string, std::int64_t> kernels;  // launches by name ("gelu_forward_kernel<float, true>")
    std::int64_t copied_bytes = 0;
    std::int64_t pageable_copies =
        0;  // from or to memory that is neither the device's nor pinned: a GPU's queue would stop for those
    std::int64_t allocations = 0;  // of device or pinned memory, ever
    std::int64_t timestamps = 0;
    std::map<std::string, std::int64_t> ranges;  // begun, by name
    std::int64_t open_ranges = 0;                // begun and not ended
  };
  Values values() const;
  void kernel(const std::string& name);
  void copy(std::size_t bytes, bool pageable);
  void allocation();
  void timestamp();
  void range_begins(const std::string& name);
  void range_ends();

 private:
  mutable std::mutex mutex_;
  Values values_;
};

// What queues of one driver share; outlives them.
struct EmulatedDevice {
  GpuProperties properties;
  GuardedMemory device_memory, pinned_memory;
  const GuardedMemory* host_memory = nullptr;  // of tests; may be null
  Counts counts;
};

// A value that threads wait for.
class EmulatedCounter : public GpuCounter {
 public:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint32_t value = 0;
  };
  void set(std::uint32_t value) override;
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

class EmulatedMark : public GpuMark {
 public:
  struct State {
    mutable std::mutex mutex;
    mutable std::condition_variable changed;
    bool complete = false;
    Status status;
  };
  bool is_complete() const override;
  Status wait() const override;
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

// The host's clock when the queue's thread came by.
class EmulatedTimestamp : public GpuTimestamp {
 public:
  struct State {
    std::atomic<bool> complete = false;
    std::chrono::steady_clock::time_point time;  // once complete
  };
  bool is_complete() const override { return state_->complete; }
  double seconds_since(const GpuTimestamp& earlier) const override {
    return std::chrono::duration<double>(state_->time - static_cast<const EmulatedTimestamp&>(earlier).state_->time).count();
  }
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

// After a kernel's finding or a failure, kernels and copies are skipped; marks and waits go on, so that nobody waits for ever.
class EmulatedQueue : public GpuQueue, public KernelQueue {
 public:
  // Throws std::system_error when there is no thread.
  EmulatedQueue(EmulatedDevice& device, std::string name);
  ~EmulatedQueue() override;

  void copy(const void* from, void* to, std::size_t n) override;
  void zero(void* to, std::size_t n) override;
  std::shared_ptr<GpuMark> mark() override;
  std::shared_ptr<GpuTimestamp> timestamp() override;
  void wait(const GpuMark& mark) override;
  void wait(const GpuCounter& counter, std::uint32_t value) override;
  void begin_range(const char* name) override;
  void end_range() override;
  void* native() override { return static_cast<KernelQueue*>(this); }
  const GpuProperties& properties() const override { return device_.properties; }
  void fail(const Status& status) override;
  GpuFault* fault() override { return &fault_; }

  void launch(Launch launch) override;
  // Host work in the queue's order, for library calls; skipped after a failure.
  void enqueue(std::function<Status()> operation);

 private:
  using Operation = std::function<void()>;
  void push(Operation operation);
  void work();
  Status status() const;
  Status refusal(const Launch& launch) const;

  EmulatedDevice& device_;
  const std::string name_;
  GpuFault fault_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Operation> operations_;
  bool stopping_ = false;
  Status status_;  // the first error
  class Kernels;
  Kernels* kernels_ = nullptr;  // the worker's
  std::thread thread_;
};

}  // namespace strata::gpu_emulated
