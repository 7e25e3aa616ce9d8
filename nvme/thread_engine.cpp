#include "nvme/thread_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "nvme/transfer.h"

namespace strata {
namespace {

constexpr unsigned kMaxThreads = 64;

class SystemCalls final : public BlockMover {
 public:
  const char* name() const override { return "threads"; }
  Moved move(const Transfer& transfer) override {
    const auto offset = static_cast<off_t>(transfer.offset);
    const int fd = transfer.file->fd;
    const ssize_t result = transfer.kind == IoRequest::Kind::read ? ::pread(fd, transfer.data, transfer.bytes, offset)
                                                                  : ::pwrite(fd, transfer.data, transfer.bytes, offset);
    return {result >= 0 ? result : -errno, {}};
  }
};

// What the engine and its threads share. It outlives the engine where a thread hangs in the kernel.
struct Pool {
  explicit Pool(std::shared_ptr<BlockMover> moves) : mover(std::move(moves)) {}
  const std::shared_ptr<BlockMover> mover;
  std::mutex mutex;
  std::condition_variable work;        // a queue was set, or stop
  std::condition_variable done;        // the queue is finished and nobody uses it
  std::optional<TransferQueue> queue;  // of the run() in progress
  std::uint64_t round = 0;             // of run(); a thread takes part once in each
  std::uint64_t completions = 0;       // so far
  unsigned busy = 0;                   // threads that may use queue
  bool stop = false;                   // no thread touches the queue any more
};

// Issues transfers until there is nothing left to issue. A transfer to be issued again is found by the thread that completed
// it, so nobody needs to be woken for it.
void transfer_all(Pool& pool, std::unique_lock<std::mutex>& lock) {
  ++pool.busy;
  while (Transfer* transfer = pool.queue->next()) {
    const Transfer copy = *transfer;
    // Closed earlier, its number could be another file's when the call begins.
    const std::shared_ptr<IoFile> held = copy.file->weak_from_this().lock();
    lock.unlock();
    const BlockMover::Moved moved = pool.mover->move(copy);
    lock.lock();
    if (pool.stop) return;
    ++pool.completions;
    if (!moved.refusal.empty()) {
      pool.queue->refuse(transfer, moved.refusal);
      continue;
    }
    if (!pool.queue->complete(transfer, moved.bytes)) continue;
    lock.unlock();
    TransferQueue::pause();
    lock.lock();
    if (pool.stop) return;
  }
  if (--pool.busy == 0) pool.done.notify_all();
}

void serve(const std::shared_ptr<Pool>& pool) {
  std::unique_lock lock(pool->mutex);
  for (std::uint64_t seen = 0;;) {
    pool->work.wait(lock, [&] { return pool->stop || (pool->queue && pool->round != seen); });
    if (pool->stop) return;
    seen = pool->round;
    transfer_all(*pool, lock);
    if (pool->stop) return;
  }
}

class ThreadEngine final : public IoEngine {
 public:
  ThreadEngine(const IoEngineOptions& options, std::shared_ptr<BlockMover> mover)
      : options_(options), pool_(std::make_shared<Pool>(std::move(mover))) {
    options_.queue_depth = std::min(options_.queue_depth, kMaxThreads);
  }
  ~ThreadEngine() override {
    {
      const std::lock_guard lock(pool_->mutex);
      pool_->stop = true;
    }
    pool_->work.notify_all();
    // A thread that hangs in the kernel ends when the device answers, or with the process.
    for (std::thread& thread : threads_) lost_.ok() ? thread.join() : thread.detach();
  }

  const char* name() const override { return pool_->mover->name(); }
  Status run(std::span<const IoRequest> requests) override;

 private:
  void start_threads(std::span<const IoRequest> requests, unsigned most);
  void wait(std::unique_lock<std::mutex>& lock);

  IoEngineOptions options_;
  const std::shared_ptr<Pool> pool_;
  std::vector<std::thread> threads_;
  Status lost_;
};

void ThreadEngine::start_threads(std::span<const IoRequest> requests, unsigned most) {
  std::size_t blocks = 0;
  for (const IoRequest& request : requests) blocks += (request.bytes + options_.block_bytes - 1) / options_.block_bytes;
  const std::size_t wanted = std::min<std::size_t>(blocks, std::min(most, kMaxThreads));
  try {
    while (threads_.size() < wanted) threads_.emplace_back([pool = pool_] { serve(pool); });
  } catch (const std::system_error&) {
    // No more threads to be had: fewer transfers are in flight, all are still done.
  }
}

// The caller only waits, so that a call which never returns is not its own.
void ThreadEngine::wait(std::unique_lock<std::mutex>& lock) {
  const auto finished = [&] { return pool_->busy == 0 && pool_->queue->finished(); };
  Silence silence(options_.timeout);
  for (bool hangs = false; !hangs;) {
    const std::uint64_t before = pool_->completions;
    const auto begin = std::chrono::steady_clock::now();
    if (pool_->done.wait_for(lock, silence.part(), finished)) return;
    const bool heard = pool_->completions > before || pool_->queue->in_flight() == 0;
    if (heard) silence.heard();
    hangs = !heard && silence.add(std::chrono::steady_clock::now() - begin);
  }
  pool_->queue->fail_overdue(options_.timeout);
  lost_ = pool_->queue->give_up_in_flight();
  pool_->stop = true;
}

Status ThreadEngine::run(std::span<const IoRequest> requests) {
  if (!lost_.ok()) return lost_;
  std::unique_lock lock(pool_->mutex);
  TransferQueue& queue = pool_->queue.emplace(requests, options_.block_bytes, options_.queue_depth);
  start_threads(requests, queue.capacity());
  ++pool_->round;
  pool_->work.notify_all();
  if (threads_.empty()) transfer_all(*pool_, lock);
  wait(lock);
  Status status = lost_.ok() ? queue.status() : lost_;
  pool_->queue.reset();
  return status;
}

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options, std::shared_ptr<BlockMover> mover) {
  return std::make_unique<ThreadEngine>(options, std::move(mover));
}

std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options) {
  return make_thread_engine(options, std::make_shared<SystemCalls>());
}

}  // namespace strata
