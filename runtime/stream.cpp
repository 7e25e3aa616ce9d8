#include "runtime/stream.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
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
      pool_(std::make_unique<ThreadPool>(backend == Backend::dry ? 1 : threads)),
      trace_(std::make_unique<TraceRecorder>()) {}

struct Event::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool complete = false;
  Status status;
  std::shared_ptr<std::atomic<bool>> error_was_read;  // of the stream

  void finish(const Status& result) {
    {
      const std::lock_guard lock(mutex);
      complete = true;
      status = result;
    }
    changed.notify_all();
  }
};

bool Event::is_complete() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->complete;
}

Status Event::wait() const {
  if (!state_) return {};
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->complete; });
  if (!state_->status.ok()) *state_->error_was_read = true;
  return state_->status;
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

  std::shared_ptr<Event::State> make_signal() const {
    auto signal = std::make_shared<Event::State>();
    signal->error_was_read = error_was_read_;
    return signal;
  }

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
    if (!status_.ok() && !*error_was_read_) std::fprintf(stderr, "stream %s: %s\n", name.c_str(), status_.message().c_str());
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
      operation.signal->finish(status_);
      return;
    }
    if (!operation.run) {  // waited for even when poisoned: what follows may rely on it
      const Status waited = operation.wait_for.wait();
      if (status_.ok()) status_ = waited;
      return;
    }
    if (!status_.ok()) return;
    const auto begin = TraceClock::now();
    status_ = guarded(operation.run);
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
  Status status_;  // written by the worker thread only
  const std::shared_ptr<std::atomic<bool>> error_was_read_ = std::make_shared<std::atomic<bool>>(false);
  std::thread thread_;
};

Stream::Stream(Device& device, std::string name) : device_(device), name_(std::move(name)), lane_(device.trace().lane(name_)) {
  STRATA_CHECK(device.backend() != Backend::cuda, "this build has no cuda backend");
  if (device.backend() == Backend::host) worker_ = std::make_unique<Worker>(device.trace(), lane_);
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
  event.state_ = stream_->worker_->make_signal();
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
  stream.enqueue("zero", [=] {
    if (n > 0) std::memset(to, 0, n);
    return Status();
  });
}

}  // namespace strata
