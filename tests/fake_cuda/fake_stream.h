// Streams and events of the fake runtime.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "tests/emulator/launch.h"

namespace strata::fake_cuda {

// A point in a stream, from its recording until the stream has come by.
class Point {
 public:
  void reach();
  bool is_reached() const;
  void wait() const;
  // Once reached.
  std::chrono::steady_clock::time_point time() const { return time_; }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool reached_ = false;
  std::chrono::steady_clock::time_point time_;
};

struct Event {
  unsigned flags = 0;
  int device = 0;
  std::mutex mutex;
  std::shared_ptr<Point> recorded;  // the latest; null: never
};

// One operation after another, on a thread of its own. A cudaStream_t is the address of its KernelQueue, which is what the
// emulator's launches look for.
class Stream final : public gpu_emulated::KernelQueue {
 public:
  explicit Stream(int device);
  ~Stream();  // after what is enqueued
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void push(std::function<void()> operation);
  void synchronize();
  int device() const { return device_; }
  void launch(gpu_emulated::Launch launch) override;

 private:
  void work();

  const int device_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> operations_;
  bool stopping_ = false;
  class Kernels;
  Kernels* kernels_ = nullptr;  // the worker's
  std::thread thread_;
};

}  // namespace strata::fake_cuda
