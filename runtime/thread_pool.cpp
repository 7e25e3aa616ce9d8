#include "runtime/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/cores.h"
#include "runtime/status.h"

namespace strata {

class ThreadPool::Impl {
 public:
  explicit Impl(const HostThreads& threads) {
    STRATA_CHECK(threads.count >= 1, "a thread pool has at least the calling thread");
    for (int i = 1; i < threads.count; ++i) {
      try {
        workers_.emplace_back([this, cores = threads.cores] {
          if (cores) (void)cores->bind_this_thread();  // whoever made the share has tried it
          work();
        });
      } catch (const std::system_error& error) {
        stop();  // a constructor that throws has no destructor to do it
        throw StatusError(Status(Code::out_of_budget, "cannot start compute thread " + std::to_string(i + 1) + " of " +
                                                          std::to_string(threads.count) + ": " + error.code().message() +
                                                          "; lower device.threads"));
      }
    }
  }
  ~Impl() { stop(); }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(std::int64_t tasks, const std::function<void(std::int64_t)>& task) {
    if (tasks <= 0) return;
    if (workers_.empty() || tasks == 1) {
      for (std::int64_t i = 0; i < tasks; ++i) task(i);
      return;
    }
    const std::lock_guard caller(callers_);
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      tasks_ = tasks;
      next_.store(0, std::memory_order_relaxed);
      ++generation_;
    }
    wake_.notify_all();
    drain(task, tasks);
    std::unique_lock lock(mutex_);
    task_ = nullptr;  // no worker may join from here on
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void drain(const std::function<void(std::int64_t)>& task, std::int64_t tasks) {
    for (std::int64_t i = next_.fetch_add(1); i < tasks; i = next_.fetch_add(1)) task(i);
  }

  void work() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      if (task_ == nullptr) continue;
      const auto* task = task_;
      const std::int64_t tasks = tasks_;
      ++active_;
      lock.unlock();
      drain(*task, tasks);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(std::int64_t)>* task_ = nullptr;
  std::int64_t tasks_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::uint64_t generation_ = 0;
  int active_ = 0;
  bool stopping_ = false;
};

ThreadPool::ThreadPool(const HostThreads& threads) : impl_(std::make_unique<Impl>(threads)) {}
ThreadPool::~ThreadPool() = default;
int ThreadPool::threads() const { return impl_->threads(); }
void ThreadPool::parallel_for(std::int64_t tasks, const std::function<void(std::int64_t)>& task) { impl_->run(tasks, task); }

}  // namespace strata
