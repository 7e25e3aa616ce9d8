// A pool whose idle threads sleep. Work is cut by the caller into tasks that do not depend on the number of threads, so
// results do not either.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace strata {

class CoreShare;

// Threads that a host computes with, and where they run.
struct HostThreads {
  HostThreads(int n, std::shared_ptr<const CoreShare> where = nullptr) : count(n), cores(std::move(where)) {}
  int count;                               // >= 1
  std::shared_ptr<const CoreShare> cores;  // null: wherever the system likes
};

class ThreadPool {
 public:
  // The count includes the calling thread: ThreadPool(1) runs everything on the caller. Throws StatusError (out_of_budget)
  // when the system refuses a thread.
  explicit ThreadPool(const HostThreads& threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Calls task(i) for every i in [0, tasks), each exactly once, on any thread; returns when all are done. The caller takes
  // part. One parallel_for at a time per pool (a second caller waits); tasks must not throw and must not nest.
  void parallel_for(std::int64_t tasks, const std::function<void(std::int64_t)>& task);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
