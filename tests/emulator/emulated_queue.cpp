#include "tests/emulator/emulated_queue.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "tests/emulator/block.h"
#include "tests/emulator/global_faults.h"
#include "tests/emulator/kernel_name.h"

namespace strata::gpu_emulated {

Counts::Values Counts::values() const {
  const std::lock_guard lock(mutex_);
  return values_;
}
void Counts::kernel(const std::string& name) {
  const std::lock_guard lock(mutex_);
  ++values_.kernels[name];
}
void Counts::copy(std::size_t bytes, bool pageable) {
  const std::lock_guard lock(mutex_);
  values_.copied_bytes += static_cast<std::int64_t>(bytes);
  values_.pageable_copies += pageable ? 1 : 0;
}
void Counts::allocation() {
  const std::lock_guard lock(mutex_);
  ++values_.allocations;
}

void Counts::timestamp() {
  const std::lock_guard lock(mutex_);
  ++values_.timestamps;
}
void Counts::range_begins(const std::string& name) {
  const std::lock_guard lock(mutex_);
  ++values_.ranges[name];
  ++values_.open_ranges;
}
void Counts::range_ends() {
  const std::lock_guard lock(mutex_);
  --values_.open_ranges;
}

void EmulatedCounter::set(std::uint32_t value) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->value = value;
  }
  state_->changed.notify_all();
}

bool EmulatedMark::is_complete() const {
  const std::lock_guard lock(state_->mutex);
  return state_->complete;
}

Status EmulatedMark::wait() const {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->complete; });
  return state_->status;
}

// What only the worker's thread uses.
class EmulatedQueue::Kernels {
 public:
  explicit Kernels(const EmulatedDevice& device) : block_(device.device_memory, device.host_memory) {}
  Status run(const Launch& launch) { return block_.run(launch); }

 private:
  GlobalFaults faults_;
  Block block_;
};

EmulatedQueue::EmulatedQueue(EmulatedDevice& device, std::string name)
    : device_(device), name_(std::move(name)), thread_([this] { work(); }) {}

EmulatedQueue::~EmulatedQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void EmulatedQueue::push(Operation operation) {
  {
    const std::lock_guard lock(mutex_);
    operations_.push_back(std::move(operation));
  }
  wake_.notify_one();
}

void EmulatedQueue::work() {
  const auto kernels = std::make_unique<Kernels>(device_);
  kernels_ = kernels.get();
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !operations_.empty(); });
    if (operations_.empty()) return;
    Operation operation = std::move(operations_.front());
    operations_.pop_front();
    lock.unlock();
    operation();
    operation = Operation();
    lock.lock();
  }
}

Status EmulatedQueue::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void EmulatedQueue::fail(const Status& status) {
  const std::lock_guard lock(mutex_);
  if (status_.ok()) status_ = status;
}

void EmulatedQueue::enqueue(std::function<Status()> operation) {
  push([this, operation = std::move(operation)] {
    if (!status().ok()) return;
    if (const Status result = operation(); !result.ok()) fail(result.with_context("queue " + name_));
  });
}

void EmulatedQueue::copy(const void* from, void* to, std::size_t n) {
  const auto is_pageable = [&](const void* data) {
    return !device_.device_memory.contains(data, n) && !device_.pinned_memory.contains(data, n);
  };
  device_.counts.copy(n, is_pageable(from) || is_pageable(to));
  enqueue([=] {
    if (n > 0) std::memcpy(to, from, n);
    return Status();
  });
}

void EmulatedQueue::zero(void* to, std::size_t n) {
  enqueue([=] {
    if (n > 0) std::memset(to, 0, n);
    return Status();
  });
}

std::shared_ptr<GpuMark> EmulatedQueue::mark() {
  auto mark = std::make_shared<EmulatedMark>();
  push([this, state = mark->state()] {
    Status result = status();
    if (result.ok() && std::atomic_ref(fault_.kind).load() != 0) result = to_status(fault_);
    {
      const std::lock_guard lock(state->mutex);
      state->status = std::move(result);
      state->complete = true;
    }
    state->changed.notify_all();
  });
  return mark;
}

std::shared_ptr<GpuTimestamp> EmulatedQueue::timestamp() {
  device_.counts.timestamp();
  auto timestamp = std::make_shared<EmulatedTimestamp>();
  push([state = timestamp->state()] {
    state->time = std::chrono::steady_clock::now();
    state->complete = true;
  });
  return timestamp;
}

void EmulatedQueue::begin_range(const char* name) { device_.counts.range_begins(name); }
void EmulatedQueue::end_range() { device_.counts.range_ends(); }

void EmulatedQueue::wait(const GpuMark& mark) {
  push([state = static_cast<const EmulatedMark&>(mark).state()] {
    std::unique_lock lock(state->mutex);
    state->changed.wait(lock, [&] { return state->complete; });
  });
}

void EmulatedQueue::wait(const GpuCounter& counter, std::uint32_t value) {
  push([state = static_cast<const EmulatedCounter&>(counter).state(), value] {
    std::unique_lock lock(state->mutex);
    // As a GPU compares: values may wrap.
    state->changed.wait(lock, [&] { return static_cast<std::int32_t>(state->value - value) >= 0; });
  });
}

// What a GPU refuses to launch, and what the kernels' contract forbids.
Status EmulatedQueue::refusal(const Launch& launch) const {
  const Grid& grid = launch.grid;
  const auto refuse = [&](const std::string& why) {
    return Status(Code::internal, "queue " + name_ + ": kernel " + kernel_name(launch.kernel) + " was refused: " + why);
  };
  if (launch.threads < 1 || launch.threads > kMaxThreads || launch.threads % kWarp != 0)
    return refuse(std::to_string(launch.threads) + " threads a block; wanted is a multiple of 32, at most 1024");
  if (grid.x < 0 || grid.y < 0 || grid.z < 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
    return refuse("a grid of (" + std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " + std::to_string(grid.z) +
                  ") blocks; (2147483647, 65535, 65535) are the most");
  if (launch.shared_bytes > device_.properties.shared_bytes_per_block)
    return refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory; a block has " +
                  std::to_string(device_.properties.shared_bytes_per_block));
  return {};
}

void EmulatedQueue::launch(Launch launch) {
  if (const Status status = refusal(launch); !status.ok()) return fail(status);
  device_.counts.kernel(kernel_name(launch.kernel));
  enqueue([this, launch = std::move(launch)] { return kernels_->run(launch); });
}

}  // namespace strata::gpu_emulated
