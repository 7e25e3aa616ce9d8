// Device, Stream, Event. Everything that takes time is an operation on a stream: an in-order queue served by a worker
// (a host thread, or on the cuda backend the GPU). Streams run beside each other; events order them, whoever serves them: a GPU
// waits for host work by a counter in host memory, a host thread sleeps until the GPU has reached a mark.
//
// Failure. An operation that fails poisons its stream: later operations on it are skipped, and every event recorded on it,
// and every stream that waits for such an event, carries the first error. Nothing is lost: synchronize() returns it, and an
// error that nobody was given is printed once, by the destructor of a stream that carries it. What a GPU has been given runs
// also after an error (its result is worthless); host streams that wait for it skip theirs, so nothing of it is stored.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/gpu/driver.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"

namespace strata {

enum class Backend {
  host,  // kernels run on CPU threads
  cuda,
  dry  // operations are accepted and not executed: a plan measures memory and schedule by running the real code on it
};
const char* to_string(Backend backend);

class Stream;

// Is told what streams are asked, in the order in which they are asked: what waits for what, whoever serves them and whatever
// was faster. Called by the threads that enqueue. Events have numbers from 1.
class StreamObserver {
 public:
  virtual ~StreamObserver() = default;
  virtual void enqueued(const Stream& stream, const char* operation) = 0;
  virtual std::uint64_t recorded(const Stream& stream) = 0;  // the number of the event
  virtual void waits(const Stream& stream, std::uint64_t event) = 0;
  virtual void waited(std::uint64_t event) = 0;  // the calling thread
};

// What streams belong to. Outlives every stream made on it.
class Device {
 public:
  // Host or dry. threads: of the compute pool on the host backend; those of streams stay on its cores too. The dry backend
  // starts none, but plans for as many on the backend `planned`. separate_memory: the host backend copies between the gpu and
  // the cpu tier as with a GPU, although host code could reach both: for emulating one.
  Device(Backend backend, HostThreads threads, Backend planned = Backend::host, bool separate_memory = false);
  // cuda. threads: of the pool for work that the host does beside the GPU.
  Device(std::unique_ptr<GpuDriver> gpu, HostThreads threads);
  ~Device();
  Backend backend() const { return backend_; }
  // The backend that runs or is planned for.
  Backend planned() const { return planned_; }
  // Whether the gpu tier is, or stands for, memory that host code must not touch: what it holds is copied, not read.
  bool has_separate_memory() const { return separate_memory_; }
  int threads() const { return threads_.count; }
  // Where host threads run and what host memory is to be beside; null: anywhere.
  const std::shared_ptr<const CoreShare>& cores() const { return threads_.cores; }
  GpuDriver& gpu() const {  // cuda backend
    STRATA_CHECK(gpu_ != nullptr, "only the cuda backend has a GPU");
    return *gpu_;
  }
  // For memory that may outlive the device.
  const std::shared_ptr<GpuDriver>& shared_gpu() const { return gpu_; }
  // Of the host kernels. Operations of several streams share it and take turns (the compute stream's kernels and fills, the
  // update stream's optimizer).
  ThreadPool& pool() const { return *pool_; }
  TraceRecorder& trace() const { return *trace_; }
  // From now on; while nobody enqueues. It outlives the device and all events. Not on the dry backend, which has no events.
  void observe(StreamObserver& observer) { observer_ = &observer; }
  StreamObserver* observer() const { return observer_; }  // null: none

 private:
  Backend backend_;
  Backend planned_;
  bool separate_memory_;
  HostThreads threads_;
  std::shared_ptr<GpuDriver> gpu_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<TraceRecorder> trace_;
  StreamObserver* observer_ = nullptr;
};

// A point in a stream. Copyable; a default-constructed event is complete.
class Event {
 public:
  Event() = default;
  bool is_complete() const;
  // Blocks the calling thread until the point is reached; returns the stream's status there.
  Status wait() const;
  // Blocks like wait() and returns the same, for destructors: the error stays unread, so that its stream still prints it.
  Status drain() const;

 private:
  friend class Stream;
  friend class StreamRef;
  struct State;
  std::shared_ptr<State> state_;
};

// Non-owning; what functions take as their last argument. There is no default stream.
class StreamRef {
 public:
  StreamRef(Stream& stream) : stream_(&stream) {}  // NOLINT: implicit by design
  StreamRef(int) = delete;
  StreamRef(std::nullptr_t) = delete;

  Device& device() const;
  Backend backend() const { return device().backend(); }
  // Whether the GPU serves this stream: then operations are kernels and copies given to queue(), not closures.
  bool on_gpu() const;
  // Of a stream that the GPU serves. What is enqueued there is ordered with the stream's other operations; use GpuOperation, so
  // that it has a name and counts as busy time.
  GpuQueue& queue() const;
  // Streams served by the host, and the dry backend (which drops it): appends an operation. `name` is a literal (it appears in
  // traces). Returns at once; what the closure refers to must stay alive until the operation is complete. A Status other than
  // ok, or an exception, poisons. amount: what it counts for where the stream has a rate (Stream::set_rate).
  void enqueue(const char* name, std::function<Status()> operation, double amount = 0.0) const;
  // Makes later operations of this stream wait for `event`. Does not block the caller.
  void wait(const Event& event) const;
  // The event of everything enqueued so far.
  [[nodiscard]] Event record() const;
  // Blocks the caller until everything enqueued so far is done.
  Status synchronize() const;

 private:
  friend class GpuOperation;
  Stream* stream_;
};

// Who serves a stream on the cuda backend; on the others the host serves all.
enum class StreamKind { gpu, host };

// Owns the queue and its worker. Not movable: operations and refs point to it.
class Stream {
 public:
  // Throws StatusError (out_of_budget) when the system refuses the worker's thread or the GPU its queue.
  Stream(Device& device, std::string name, StreamKind kind = StreamKind::gpu);
  ~Stream();  // waits for what is queued; an error that nobody has read, from any stream, is printed to stderr
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  StreamRef ref() { return {*this}; }
  Device& device() const { return device_; }
  const std::string& name() const { return name_; }
  // Gives a stream that the GPU serves its scratch (GpuQueue::scratch); no effect elsewhere.
  void set_scratch(std::span<std::byte> scratch);
  // Emulates a resource that does `per_second` of something in a second: from now on an operation with an amount ends no sooner
  // than amount / per_second after it, or after the operation of that kind before it, began; what follows that one on the
  // stream without an amount counts into its time. 0: no limit. Streams that the host serves; before their first operation.
  void set_rate(double per_second);
  // Seconds its operations have run so far (waiting for events not counted). Of a GPU's work, what it has finished; gaps
  // between launches that follow each other count.
  double busy_seconds() const;

 private:
  friend class StreamRef;
  friend class GpuOperation;
  class Worker;
  class GpuSide;
  Device& device_;
  std::string name_;
  int lane_;
  std::unique_ptr<Worker> worker_;  // null on the dry backend and where gpu_ is not
  std::unique_ptr<GpuSide> gpu_;
};

// While it lives, what is given to queue() is one operation of a stream that the GPU serves: `name` (a literal) is what
// profilers and traces show, and its time counts as busy.
class GpuOperation {
 public:
  GpuOperation(StreamRef stream, const char* name);
  ~GpuOperation();
  GpuOperation(const GpuOperation&) = delete;
  GpuOperation& operator=(const GpuOperation&) = delete;
  GpuQueue& queue() const { return queue_; }

 private:
  Stream& stream_;
  GpuQueue& queue_;
};

// Copies n bytes on `stream` (host: memcpy by its worker; GPU: from and to may be device or page-locked host memory). Ranges do
// not overlap. amount: see StreamRef::enqueue.
void copy_async(const void* from, void* to, std::size_t n, StreamRef stream, double amount = 0.0);
// Fills n bytes with zero on `stream` (host: by the threads of the pool).
void zero_async(void* to, std::size_t n, StreamRef stream);

}  // namespace strata
