#include "runtime/stream.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace strata {

const char* to_string(Backend backend) {
  switch (backend) {
    case Backend::host: return "host";
    case Backend::cuda: return "cuda";
    case Backend::dry: return "dry";
  }
  return "?";
}

Device::Device(Backend backend, int threads)
    : backend_(backend),
      threads_(threads),
      pool_(std::make_unique<ThreadPool>(backend == Backend::dry ? 1 : threads)),
      trace_(std::make_unique<TraceRecorder>()) {}

struct Event::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool complete = false;
  Status status;
  std::shared_ptr<std::atomic<bool>> error_was_read;  // one flag an error, on whatever streams it arrives; null: no error

  void finish(const Status& result, std::shared_ptr<std::atomic<bool>> was_read) {
    {
      const std::lock_guard lock(mutex);
      complete = true;
      status = result;
      error_was_read = std::move(was_read);
    }
    changed.notify_all();
  }
};

bool Event::is_complete() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->complete;
}

Status Event::drain() const {
  if (!state_) return {};
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->complete; });
  return state_->status;
}

Status Event::wait() const {
  Status status = drain();
  if (!status.ok()) *state_->error_was_read = true;
  return status;
}

class Stream::Worker {
 public:
  Worker(TraceRecorder& trace, int lane) : trace_(trace), lane_(lane), thread_([this] { work(); }) {}

  // wait_for: waited for before the operation, outside its span.
  struct Operation {
    const char* name = nullptr;
    std::function<Status()> run;
    Event wait_for;
    std::shared_ptr<Event::State> signal;
  };

  void push(Operation operation) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(operation));
    }
    wake_.notify_one();
  }

  // Only after the worker has drained: status_ is the worker's.
  void stop_and_report(const std::string& name) {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    if (!status_.ok() && !error_was_read_->exchange(true))
      std::fprintf(stderr, "stream %s: %s\n", name.c_str(), status_.message().c_str());
  }

 private:
  static Status guarded(const std::function<Status()>& run) {
    try {
      return run();
    } catch (const StatusError& error) {
      return error.status();
    } catch (const std::exception& error) {
      return {Code::internal, error.what()};
    } catch (...) {
      return {Code::internal, "an exception that is not a std::exception"};
    }
  }

  void execute(Operation& operation) {
    if (operation.signal) {
      operation.signal->finish(status_, error_was_read_);
      return;
    }
    if (!operation.run) {  // waited for even when poisoned: what follows may rely on it
      const Status waited = operation.wait_for.drain();
      if (status_.ok()) {
        status_ = waited;
        error_was_read_ = operation.wait_for.state_->error_was_read;
      }
      return;
    }
    if (!status_.ok()) return;
    const auto begin = TraceClock::now();
    status_ = guarded(operation.run);
    if (!status_.ok()) error_was_read_ = std::make_shared<std::atomic<bool>>(false);
    trace_.span(lane_, operation.name, begin, TraceClock::now());
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Operation operation = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      execute(operation);
      operation = Operation();  // releases what the closure owns before the next one starts
      lock.lock();
    }
  }

  TraceRecorder& trace_;
  const int lane_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Operation> queue_;
  bool stopping_ = false;
  Status status_;                                      // written by the worker thread only
  std::shared_ptr<std::atomic<bool>> error_was_read_;  // of status_
  std::thread thread_;
};

Stream::Stream(Device& device, std::string name) : device_(device), name_(std::move(name)), lane_(device.trace().lane(name_)) {
  STRATA_CHECK(device.backend() != Backend::cuda, "this build has no cuda backend");
  if (device.backend() != Backend::host) return;
  try {
    worker_ = std::make_unique<Worker>(device.trace(), lane_);
  } catch (const std::system_error& error) {
    throw StatusError(Status(Code::out_of_budget, "cannot start the thread of stream " + name_ + ": " + error.code().message() +
                                                      "; raise the limit on threads or lower device.threads"));
  }
}

Stream::~Stream() {
  if (worker_) worker_->stop_and_report(name_);
}

double Stream::busy_seconds() const { return device_.trace().busy_seconds(lane_); }

Device& StreamRef::device() const { return stream_->device_; }

void StreamRef::enqueue(const char* name, std::function<Status()> operation) const {
  if (!stream_->worker_) return;
  Stream::Worker::Operation op;
  op.name = name;
  op.run = std::move(operation);
  stream_->worker_->push(std::move(op));
}

void StreamRef::wait(const Event& event) const {
  if (!stream_->worker_ || !event.state_) return;
  Stream::Worker::Operation op;
  op.wait_for = event;
  stream_->worker_->push(std::move(op));
}

Event StreamRef::record() const {
  Event event;
  if (!stream_->worker_) return event;
  event.state_ = std::make_shared<Event::State>();
  Stream::Worker::Operation op;
  op.signal = event.state_;
  stream_->worker_->push(std::move(op));
  return event;
}

void copy_async(const void* from, void* to, std::size_t n, StreamRef stream) {
  stream.enqueue("copy", [=] {
    if (n > 0) std::memcpy(to, from, n);
    return Status();
  });
}

void zero_async(void* to, std::size_t n, StreamRef stream) {
  constexpr std::size_t kChunk = std::size_t{1} << 20;
  stream.enqueue("zero", [=, &pool = stream.device().pool()] {
    pool.parallel_for(static_cast<std::int64_t>((n + kChunk - 1) / kChunk), [=](std::int64_t i) {
      const std::size_t first = static_cast<std::size_t>(i) * kChunk;
      std::memset(static_cast<std::byte*>(to) + first, 0, std::min(kChunk, n - first));
    });
    return Status();
  });
}

}  // namespace strata
