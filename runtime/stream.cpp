#include "runtime/stream.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/cores.h"
#include "runtime/gpu/lane_timer.h"

namespace strata {

const char* to_string(Backend backend) {
  switch (backend) {
    case Backend::host: return "host";
    case Backend::cuda: return "cuda";
    case Backend::dry: return "dry";
  }
  return "?";
}

Device::Device(Backend backend, HostThreads threads, Backend planned, bool separate_memory)
    : backend_(backend),
      planned_(backend == Backend::dry ? planned : backend),
      separate_memory_(separate_memory || planned_ == Backend::cuda),
      threads_(std::move(threads)),
      pool_(std::make_unique<ThreadPool>(backend == Backend::dry ? HostThreads(1) : threads_)),
      trace_(std::make_unique<TraceRecorder>()) {
  STRATA_CHECK(backend != Backend::cuda && planned != Backend::dry, "a cuda device is made around its driver");
}

Device::Device(std::unique_ptr<GpuDriver> gpu, HostThreads threads)
    : backend_(Backend::cuda),
      planned_(Backend::cuda),
      separate_memory_(true),
      threads_(std::move(threads)),
      gpu_(std::move(gpu)),
      pool_(std::make_unique<ThreadPool>(threads_)),
      trace_(std::make_unique<TraceRecorder>()) {}

Device::~Device() = default;

namespace {

// How far a stream got. error_was_read: one flag an error, on whatever streams it arrives; null: no error.
struct Outcome {
  Status status;
  std::shared_ptr<std::atomic<bool>> error_was_read;
};

}  // namespace

// Of a stream that the host serves: set by its worker. Of one that the GPU serves: a mark, and the events that stream waited
// for, whose errors it carries; both are given up once the outcome is known, so that no chain of events outlives its use.
struct Event::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool complete = false;
  Outcome outcome;
  std::shared_ptr<GpuCounter> counter;  // reaches `value` when complete; null where there is no GPU
  std::uint32_t value = 0;

  std::shared_ptr<GpuMark> mark;
  std::vector<std::shared_ptr<State>> before;
  std::shared_ptr<std::atomic<bool>> stream_error_was_read;  // of the GPU's stream, which tells it from others

  StreamObserver* observer = nullptr;  // null: recorded when there was none
  std::uint64_t number = 0;

  void finish(const Outcome& result) {
    {
      const std::lock_guard lock(mutex);
      complete = true;
      outcome = result;
    }
    changed.notify_all();
  }
  bool is_complete() {
    const std::lock_guard lock(mutex);
    return complete || (mark && mark->is_complete());
  }
  Outcome wait() {
    std::shared_ptr<GpuMark> reached;
    std::vector<std::shared_ptr<State>> earlier;
    {
      std::unique_lock lock(mutex);
      if (!mark) changed.wait(lock, [&] { return complete; });
      if (complete) return outcome;
      reached = mark;
      earlier = before;
    }
    Outcome found;
    if (Status status = reached->wait(); !status.ok()) found = {std::move(status), stream_error_was_read};
    for (std::size_t i = 0; i < earlier.size() && found.status.ok(); ++i) found = earlier[i]->wait();
    const std::lock_guard lock(mutex);
    if (!complete) {
      complete = true;
      outcome = found;
      mark.reset();
      before.clear();
    }
    return outcome;
  }
};

bool Event::is_complete() const { return !state_ || state_->is_complete(); }

Status Event::drain() const {
  if (!state_) return {};
  Outcome outcome = state_->wait();
  if (state_->observer != nullptr) state_->observer->waited(state_->number);
  return std::move(outcome.status);
}

Status Event::wait() const {
  if (!state_) return {};
  const Outcome outcome = state_->wait();
  if (state_->observer != nullptr) state_->observer->waited(state_->number);
  if (!outcome.status.ok()) *outcome.error_was_read = true;
  return outcome.status;
}

class Stream::Worker {
 public:
  // counter: where a GPU may wait for this worker; may be null.
  Worker(TraceRecorder& trace, int lane, std::shared_ptr<GpuCounter> counter, std::shared_ptr<const CoreShare> cores)
      : trace_(trace), lane_(lane), counter_(std::move(counter)), thread_([this, cores = std::move(cores)] {
          if (cores) (void)cores->bind_this_thread();  // whoever made the share has tried it
          work();
        }) {}

  // wait_for: waited for before the operation, outside its span.
  struct Operation {
    const char* name = nullptr;
    std::function<Status()> run;
    double amount = 0.0;
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

  std::shared_ptr<Event::State> record() {
    auto state = std::make_shared<Event::State>();
    state->counter = counter_;
    Operation operation;
    operation.signal = state;
    {
      const std::lock_guard lock(mutex_);
      state->value = ++recorded_;
      queue_.push_back(std::move(operation));
    }
    wake_.notify_one();
    return state;
  }

  void set_rate(double per_second) { rate_ = per_second; }

  // Only after the worker has drained: status_ is the worker's.
  void stop_and_report(const std::string& name) {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    if (!outcome_.status.ok() && !outcome_.error_was_read->exchange(true))
      std::fprintf(stderr, "stream %s: %s\n", name.c_str(), outcome_.status.message().c_str());
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
      operation.signal->finish(outcome_);
      if (counter_) counter_->set(operation.signal->value);
      return;
    }
    if (!operation.run) {  // waited for even when poisoned: what follows may rely on it
      if (!operation.wait_for.is_complete()) busy_since_.reset();
      Outcome waited = operation.wait_for.state_->wait();
      if (outcome_.status.ok()) outcome_ = std::move(waited);
      return;
    }
    if (!outcome_.status.ok()) return;
    const auto begin = TraceClock::now();
    if (!busy_since_) busy_since_ = begin;
    outcome_.status = guarded(operation.run);
    if (rate_ > 0.0 && operation.amount > 0.0) pace(operation.amount);
    if (!outcome_.status.ok()) outcome_.error_was_read = std::make_shared<std::atomic<bool>>(false);
    trace_.span(lane_, operation.name, begin, TraceClock::now());
  }

  // Counting from where the paced operation before it should have ended, when the stream has been busy since: a sleep that took
  // too long is made good by the next one.
  void pace(double amount) {
    const auto end =
        *busy_since_ + std::chrono::duration_cast<TraceClock::duration>(std::chrono::duration<double>(amount / rate_));
    std::this_thread::sleep_until(end);
    busy_since_ = end;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (queue_.empty()) busy_since_.reset();
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
  const std::shared_ptr<GpuCounter> counter_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Operation> queue_;
  std::uint32_t recorded_ = 0;  // value of the last event; wraps, as the GPU's comparison does
  bool stopping_ = false;
  double rate_ = 0.0;                                 // of amounts, a second; 0: not paced
  std::optional<TraceClock::time_point> busy_since_;  // when what is paced next began; nothing: it has not
  Outcome outcome_;                                   // written by the worker thread only
  std::thread thread_;
};

// A stream that the GPU serves: operations are given to the queue by the caller's thread.
class Stream::GpuSide {
 public:
  GpuSide(std::unique_ptr<GpuQueue> queue, TraceRecorder& trace, int lane)
      : queue_(std::move(queue)), timer_(*queue_, trace, lane) {}

  GpuQueue& queue() { return *queue_; }
  GpuLaneTimer& timer() { return timer_; }

  void wait(const std::shared_ptr<Event::State>& state) {
    const std::lock_guard lock(mutex_);
    if (state->stream_error_was_read == error_was_read_) return;  // an event of this stream
    timer_.pause();
    if (!state->stream_error_was_read) {
      queue_->wait(*state->counter, state->value);
    } else {
      const std::lock_guard state_lock(state->mutex);
      if (state->mark) queue_->wait(*state->mark);
    }
    before_.push_back(state);
    if (before_.size() >= kForget) forget_what_went_well();
  }

  std::shared_ptr<Event::State> record() {
    const std::lock_guard lock(mutex_);
    timer_.pause();
    auto state = std::make_shared<Event::State>();
    state->mark = queue_->mark();
    state->before = before_;
    state->stream_error_was_read = error_was_read_;
    return state;
  }

  void report(const std::string& name) {
    const Outcome outcome = record()->wait();
    timer_.collect();
    if (!outcome.status.ok() && !outcome.error_was_read->exchange(true))
      std::fprintf(stderr, "stream %s: %s\n", name.c_str(), outcome.status.message().c_str());
  }

 private:
  static constexpr std::size_t kForget = 16;

  void forget_what_went_well() {
    std::erase_if(before_,
                  [](const std::shared_ptr<Event::State>& state) { return state->is_complete() && state->wait().status.ok(); });
  }

  std::mutex mutex_;
  std::unique_ptr<GpuQueue> queue_;
  GpuLaneTimer timer_;
  std::vector<std::shared_ptr<Event::State>> before_;  // what this stream waited for and may have failed
  const std::shared_ptr<std::atomic<bool>> error_was_read_ = std::make_shared<std::atomic<bool>>(false);
};

Stream::Stream(Device& device, std::string name, StreamKind kind)
    : device_(device), name_(std::move(name)), lane_(device.trace().lane(name_)) {
  if (device.backend() == Backend::dry) return;
  std::shared_ptr<GpuCounter> counter;
  if (device.backend() == Backend::cuda) {
    const auto context = [&](const Status& status) { return status.with_context("stream " + name_); };
    if (kind == StreamKind::gpu) {
      Result<std::unique_ptr<GpuQueue>> queue = device.gpu().make_queue(name_.c_str());
      throw_if_error(context(queue.status()));
      gpu_ = std::make_unique<GpuSide>(std::move(queue).value(), device.trace(), lane_);
      return;
    }
    Result<std::shared_ptr<GpuCounter>> made = device.gpu().make_counter();
    throw_if_error(context(made.status()));
    counter = std::move(made).value();
  }
  try {
    worker_ = std::make_unique<Worker>(device.trace(), lane_, std::move(counter), device.cores());
  } catch (const std::system_error& error) {
    throw StatusError(Status(Code::out_of_budget, "cannot start the thread of stream " + name_ + ": " + error.code().message() +
                                                      "; raise the limit on threads or lower device.threads"));
  }
}

Stream::~Stream() {
  if (worker_) worker_->stop_and_report(name_);
  if (gpu_) gpu_->report(name_);
}

void Stream::set_scratch(std::span<std::byte> scratch) {
  if (gpu_) gpu_->queue().set_scratch(scratch);
}

void Stream::set_rate(double per_second) {
  STRATA_CHECK(!gpu_, "stream " + name_ + " is served by the GPU, whose pace is its own");
  if (worker_) worker_->set_rate(per_second);
}

double Stream::busy_seconds() const {
  if (gpu_) gpu_->timer().collect();
  return device_.trace().busy_seconds(lane_);
}

Device& StreamRef::device() const { return stream_->device_; }

bool StreamRef::on_gpu() const { return stream_->gpu_ != nullptr; }

GpuQueue& StreamRef::queue() const {
  STRATA_CHECK(on_gpu(), "stream " + stream_->name_ + " is served by the host");
  return stream_->gpu_->queue();
}

void StreamRef::enqueue(const char* name, std::function<Status()> operation, double amount) const {
  STRATA_CHECK(!on_gpu(), std::string(name) + " is host work, stream " + stream_->name_ + " is served by the GPU");
  if (!stream_->worker_) return;
  if (StreamObserver* const observer = device().observer()) observer->enqueued(*stream_, name);
  Stream::Worker::Operation op;
  op.name = name;
  op.run = std::move(operation);
  op.amount = amount;
  stream_->worker_->push(std::move(op));
}

void StreamRef::wait(const Event& event) const {
  if (!event.state_) return;
  if (event.state_->observer != nullptr) event.state_->observer->waits(*stream_, event.state_->number);
  if (stream_->gpu_) return stream_->gpu_->wait(event.state_);
  if (!stream_->worker_) return;
  Stream::Worker::Operation op;
  op.wait_for = event;
  stream_->worker_->push(std::move(op));
}

Event StreamRef::record() const {
  Event event;
  if (stream_->gpu_) event.state_ = stream_->gpu_->record();
  if (stream_->worker_) event.state_ = stream_->worker_->record();
  if (StreamObserver* const observer = device().observer(); observer != nullptr && event.state_) {
    event.state_->observer = observer;
    event.state_->number = observer->recorded(*stream_);
  }
  return event;
}

Status StreamRef::synchronize() const {
  Status status = record().wait();
  if (stream_->gpu_) stream_->gpu_->timer().collect();
  return status;
}

GpuOperation::GpuOperation(StreamRef stream, const char* name) : stream_(*stream.stream_), queue_(stream.queue()) {
  if (StreamObserver* const observer = stream.device().observer()) observer->enqueued(stream_, name);
  queue_.begin_range(name);
  stream_.gpu_->timer().begin(name);
}

GpuOperation::~GpuOperation() {
  stream_.gpu_->timer().end();
  queue_.end_range();
}

void copy_async(const void* from, void* to, std::size_t n, StreamRef stream, double amount) {
  if (stream.on_gpu()) return GpuOperation(stream, "copy").queue().copy(from, to, n);
  const auto copy = [=] {
    if (n > 0) std::memcpy(to, from, n);
    return Status();
  };
  stream.enqueue("copy", copy, amount);
}

void zero_async(void* to, std::size_t n, StreamRef stream) {
  if (stream.on_gpu()) return GpuOperation(stream, "zero").queue().zero(to, n);
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
