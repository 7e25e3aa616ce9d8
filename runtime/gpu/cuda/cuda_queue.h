// Streams, events and counters of CUDA behind driver.h.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/gpu/driver.h"

namespace strata {

// Events of one kind, kept for the next mark or timestamp: making one takes as long as a launch. Thread-safe; outlived by no
// user of its events.
class CudaEventPool {
 public:
  enum class Kind { mark, timestamp };
  CudaEventPool(int ordinal, Kind kind) : ordinal_(ordinal), kind_(kind) {}
  ~CudaEventPool();
  CudaEventPool(const CudaEventPool&) = delete;
  CudaEventPool& operator=(const CudaEventPool&) = delete;
  Result<cudaEvent_t> take();
  void give(cudaEvent_t event);
  int ordinal() const { return ordinal_; }

 private:
  const int ordinal_;
  const Kind kind_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

// What the queues of a driver share.
struct CudaEvents {
  explicit CudaEvents(int ordinal)
      : marks(std::make_shared<CudaEventPool>(ordinal, CudaEventPool::Kind::mark)),
        timestamps(std::make_shared<CudaEventPool>(ordinal, CudaEventPool::Kind::timestamp)) {}
  std::shared_ptr<CudaEventPool> marks, timestamps;
};

// A 32-bit word in page-locked memory.
class CudaCounter final : public GpuCounter {
 public:
  static Result<std::shared_ptr<GpuCounter>> make(int ordinal);
  ~CudaCounter() override;
  CudaCounter(const CudaCounter&) = delete;
  CudaCounter& operator=(const CudaCounter&) = delete;
  void set(std::uint32_t value) override;

  const void* address() const { return word_; }

 private:
  CudaCounter(void* word, int ordinal) : word_(static_cast<std::uint32_t*>(word)), ordinal_(ordinal) {}
  std::uint32_t* word_;
  const int ordinal_;  // of the GPU, for messages
};

class CudaQueue final : public GpuQueue {
 public:
  static Result<std::unique_ptr<GpuQueue>> make(const std::string& name, const GpuProperties& properties,
                                                const CudaEvents& events);
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  void copy(const void* from, void* to, std::size_t n) override;
  void zero(void* to, std::size_t n) override;
  std::shared_ptr<GpuMark> mark() override;
  std::shared_ptr<GpuTimestamp> timestamp() override;
  void wait(const GpuMark& mark) override;
  void wait(const GpuCounter& counter, std::uint32_t value) override;
  void begin_range(const char* name) override;
  void end_range() override;
  void* native() override { return stream_; }
  const GpuProperties& properties() const override { return properties_; }
  void fail(const Status& status) override;
  GpuFault* fault() override;

  // What marks share with their queue, which may be gone before them.
  struct State;

 private:
  CudaQueue(const GpuProperties& properties, const CudaEvents& events, std::shared_ptr<State> state)
      : properties_(properties), events_(events), state_(std::move(state)) {}
  void keep(cudaError_t error, const char* call);
  void use_device();
  // A recorded event of the pool; null after an error, which the state keeps.
  cudaEvent_t record_event(CudaEventPool& pool);

  const GpuProperties& properties_;
  const CudaEvents events_;
  std::shared_ptr<State> state_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace strata
