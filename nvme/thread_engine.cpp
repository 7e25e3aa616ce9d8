#include "nvme/thread_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "nvme/transfer.h"

namespace strata {
namespace {

constexpr unsigned kMaxThreads = 64;

std::int64_t transfer_now(const Transfer& transfer) {
  const auto offset = static_cast<off_t>(transfer.offset);
  const ssize_t result = transfer.kind == IoRequest::Kind::read ? ::pread(transfer.fd, transfer.data, transfer.bytes, offset)
                                                                : ::pwrite(transfer.fd, transfer.data, transfer.bytes, offset);
  return result >= 0 ? result : -errno;
}

class ThreadEngine final : public IoEngine {
 public:
  explicit ThreadEngine(const IoEngineOptions& options) : options_(options) {
    options_.queue_depth = std::min(options_.queue_depth, kMaxThreads);
  }
  ~ThreadEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  const char* name() const override { return "threads"; }
  Status run(std::span<const IoRequest> requests, const std::string& path) override;

 private:
  void start_helpers(std::span<const IoRequest> requests);
  void help();
  void transfer_all(std::unique_lock<std::mutex>& lock);

  IoEngineOptions options_;
  std::mutex mutex_;
  std::condition_variable work_;  // queue_ was set, or stop_
  std::condition_variable idle_;  // busy_ became 0
  TransferQueue* queue_ = nullptr;
  std::uint64_t round_ = 0;  // of run(); a helper takes part once in each
  unsigned busy_ = 0;        // threads that may use queue_
  bool stop_ = false;
  std::vector<std::thread> helpers_;
};

// Issues transfers until there is nothing left to issue. A transfer to be issued again is found by the thread that completed
// it, so nobody needs to be woken for it.
void ThreadEngine::transfer_all(std::unique_lock<std::mutex>& lock) {
  ++busy_;
  while (Transfer* transfer = queue_->next()) {
    lock.unlock();
    const std::int64_t result = transfer_now(*transfer);
    lock.lock();
    if (queue_->complete(transfer, result)) {
      lock.unlock();
      TransferQueue::pause();
      lock.lock();
    }
  }
  if (--busy_ == 0) idle_.notify_all();
}

void ThreadEngine::help() {
  std::unique_lock lock(mutex_);
  for (std::uint64_t seen = 0;;) {
    work_.wait(lock, [&] { return stop_ || (queue_ != nullptr && round_ != seen); });
    if (stop_) return;
    seen = round_;
    transfer_all(lock);
  }
}

void ThreadEngine::start_helpers(std::span<const IoRequest> requests) {
  std::size_t blocks = 0;
  for (const IoRequest& request : requests) blocks += (request.bytes + options_.block_bytes - 1) / options_.block_bytes;
  const std::size_t wanted = std::min<std::size_t>(blocks, options_.queue_depth);
  try {
    while (helpers_.size() + 1 < wanted) helpers_.emplace_back([this] { help(); });
  } catch (const std::system_error&) {
    // No more threads to be had: fewer transfers are in flight, all are still done.
  }
}

Status ThreadEngine::run(std::span<const IoRequest> requests, const std::string& path) {
  start_helpers(requests);
  TransferQueue queue(requests, options_.block_bytes, options_.queue_depth, path);
  std::unique_lock lock(mutex_);
  queue_ = &queue;
  ++round_;
  work_.notify_all();
  transfer_all(lock);
  idle_.wait(lock, [&] { return busy_ == 0; });
  queue_ = nullptr;
  STRATA_CHECK(queue.finished(), "every transfer was issued and completed");
  return queue.status();
}

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options) { return std::make_unique<ThreadEngine>(options); }

}  // namespace strata
