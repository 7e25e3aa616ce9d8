#include "runtime/gpu/cuda/cuda_queue.h"

#include <cuda.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <new>

#include "runtime/gpu/cuda/cuda_status.h"

namespace strata {
namespace {

void log_error(const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
}

// Found in the driver at run time: a program linked to libcuda would not start where there is none.
struct StreamWaitValue {
  CUresult (*call)(CUstream, CUdeviceptr, cuuint32_t, unsigned int) = nullptr;
};
// There is no other way to make a stream wait for the host: a callback that waits would keep those of other streams from
// running, on which it may depend.
Result<StreamWaitValue> find_stream_wait_value(int ordinal) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  STRATA_RETURN_IF_CUDA_ERROR(
      cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", &function, 12000, cudaEnableDefault, &found), ordinal);
  if (found == cudaDriverEntryPointSuccess) return StreamWaitValue{reinterpret_cast<decltype(StreamWaitValue::call)>(function)};
  return Status(Code::unsupported,
                "the driver of GPU " + std::to_string(ordinal) +
                    " has no cuStreamWaitValue32, by which streams wait for the host; install a newer driver");
}

}  // namespace

CudaEventPool::~CudaEventPool() {
  if (!free_.empty()) log_error(use_gpu(ordinal_));
  for (const cudaEvent_t event : free_) log_error(cuda_status(cudaEventDestroy(event), "cudaEventDestroy", ordinal_));
}

Result<cudaEvent_t> CudaEventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  const unsigned flags = cudaEventBlockingSync | (kind_ == Kind::mark ? cudaEventDisableTiming : 0u);
  STRATA_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, flags), ordinal_);
  return event;
}

void CudaEventPool::give(cudaEvent_t event) {
  const std::lock_guard lock(mutex_);
  free_.push_back(event);
}

Result<std::shared_ptr<GpuCounter>> CudaCounter::make(int ordinal) {
  STRATA_RETURN_IF_ERROR(use_gpu(ordinal));
  void* word = nullptr;
  STRATA_RETURN_IF_CUDA_ERROR(cudaHostAlloc(&word, sizeof(std::uint32_t), cudaHostAllocPortable | cudaHostAllocMapped),
                              ordinal);
  *static_cast<std::uint32_t*>(word) = 0;
  return std::shared_ptr<GpuCounter>(new CudaCounter(word, ordinal));
}

CudaCounter::~CudaCounter() {
  log_error(use_gpu(ordinal_));
  log_error(cuda_status(cudaFreeHost(word_), "cudaFreeHost", ordinal_));
}

void CudaCounter::set(std::uint32_t value) { std::atomic_ref<std::uint32_t>(*word_).store(value, std::memory_order_release); }

struct CudaQueue::State {
  int ordinal = 0;
  std::string name;
  GpuFault* fault = nullptr;  // page-locked
  StreamWaitValue stream_wait_value;
  std::mutex mutex;
  Status failed;  // the first error

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (fault == nullptr) return;
    log_error(use_gpu(ordinal));
    log_error(cuda_status(cudaFreeHost(fault), "cudaFreeHost", ordinal));
  }
  void keep(const Status& status) {
    const std::lock_guard lock(mutex);
    if (failed.ok()) failed = status;
  }
  // Once the queue has reached a mark: what went wrong before it, as far as is known.
  Status status() {
    const std::lock_guard lock(mutex);
    if (failed.ok()) failed = to_status(*fault);
    return failed;
  }
};

namespace {

// An event that was recorded, until nobody needs it. Null: recording it failed, which the queue's state knows.
class RecordedEvent {
 public:
  RecordedEvent(cudaEvent_t event, std::shared_ptr<CudaEventPool> pool) : event_(event), pool_(std::move(pool)) {}
  ~RecordedEvent() {
    if (event_ != nullptr) pool_->give(event_);
  }
  RecordedEvent(const RecordedEvent&) = delete;
  RecordedEvent& operator=(const RecordedEvent&) = delete;
  cudaEvent_t get() const { return event_; }
  // Its device becomes the calling thread's.
  bool use_gpu() const { return cudaSetDevice(pool_->ordinal()) == cudaSuccess; }
  bool is_complete() const {
    if (event_ == nullptr) return true;
    const cudaError_t found = use_gpu() ? cudaEventQuery(event_) : cudaErrorUnknown;
    // An error is for wait() to tell. Nothing is left for the next launch to find, "not ready" least of all.
    if (found != cudaSuccess) (void)cudaGetLastError();
    return found != cudaErrorNotReady;
  }

 private:
  cudaEvent_t event_;
  std::shared_ptr<CudaEventPool> pool_;
};

class CudaMark final : public GpuMark {
 public:
  CudaMark(cudaEvent_t event, const std::shared_ptr<CudaEventPool>& pool, std::shared_ptr<CudaQueue::State> state)
      : event_(event, pool), state_(std::move(state)) {}

  bool is_complete() const override { return event_.is_complete(); }
  Status wait() const override {
    if (event() != nullptr) {
      keep(use_gpu(state_->ordinal));
      keep(cuda_status(cudaEventSynchronize(event()), "cudaEventSynchronize", state_->ordinal));
    }
    return state_->status();
  }
  cudaEvent_t event() const { return event_.get(); }

 private:
  void keep(const Status& status) const {
    if (!status.ok()) state_->keep(status.with_context("stream " + state_->name));
  }
  const RecordedEvent event_;
  std::shared_ptr<CudaQueue::State> state_;
};

class CudaTimestamp final : public GpuTimestamp {
 public:
  CudaTimestamp(cudaEvent_t event, const std::shared_ptr<CudaEventPool>& pool) : event_(event, pool) {}

  bool is_complete() const override { return event_.is_complete(); }
  double seconds_since(const GpuTimestamp& earlier) const override {
    const cudaEvent_t from = static_cast<const CudaTimestamp&>(earlier).event_.get();
    float milliseconds = 0.0f;
    if (from == nullptr || event_.get() == nullptr || !event_.use_gpu() ||
        cudaEventElapsedTime(&milliseconds, from, event_.get()) != cudaSuccess) {
      (void)cudaGetLastError();  // the marks of the queue tell what happened
      return 0.0;
    }
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  const RecordedEvent event_;
};

}  // namespace

Result<std::unique_ptr<GpuQueue>> CudaQueue::make(const std::string& name, const GpuProperties& properties,
                                                  const CudaEvents& events) {
  auto state = std::make_shared<State>();
  state->ordinal = properties.ordinal;
  state->name = name;
  STRATA_RETURN_IF_ERROR(use_gpu(properties.ordinal));
  void* fault = nullptr;
  STRATA_RETURN_IF_CUDA_ERROR(cudaHostAlloc(&fault, sizeof(GpuFault), cudaHostAllocPortable | cudaHostAllocMapped),
                              properties.ordinal);
  state->fault = new (fault) GpuFault();
  STRATA_ASSIGN_OR_RETURN(state->stream_wait_value, find_stream_wait_value(properties.ordinal));
  std::unique_ptr<CudaQueue> queue(new CudaQueue(properties, events, std::move(state)));
  STRATA_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&queue->stream_, cudaStreamNonBlocking), properties.ordinal);
  return std::unique_ptr<GpuQueue>(std::move(queue));
}

CudaQueue::~CudaQueue() {
  if (stream_ == nullptr) return;
  log_error(use_gpu(state_->ordinal));
  log_error(cuda_status(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", state_->ordinal));
  log_error(cuda_status(cudaStreamDestroy(stream_), "cudaStreamDestroy", state_->ordinal));
}

void CudaQueue::keep(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  state_->keep(cuda_status(error, call, state_->ordinal).with_context("stream " + state_->name));
}

// The calling thread may be new, or have worked for another device.
void CudaQueue::use_device() { keep(cudaSetDevice(state_->ordinal), "cudaSetDevice"); }

void CudaQueue::copy(const void* from, void* to, std::size_t n) {
  if (n == 0) return;
  use_device();
  keep(cudaMemcpyAsync(to, from, n, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
}

void CudaQueue::zero(void* to, std::size_t n) {
  if (n == 0) return;
  use_device();
  keep(cudaMemsetAsync(to, 0, n, stream_), "cudaMemsetAsync");
}

cudaEvent_t CudaQueue::record_event(CudaEventPool& pool) {
  use_device();
  const Result<cudaEvent_t> event = pool.take();
  if (!event.ok()) {
    state_->keep(event.status().with_context("stream " + state_->name));
    return nullptr;
  }
  const cudaError_t error = cudaEventRecord(*event, stream_);
  if (error == cudaSuccess) return *event;
  keep(error, "cudaEventRecord");
  pool.give(*event);  // it may still stand for what it was recorded for before
  return nullptr;
}

std::shared_ptr<GpuMark> CudaQueue::mark() {
  return std::make_shared<CudaMark>(record_event(*events_.marks), events_.marks, state_);
}

std::shared_ptr<GpuTimestamp> CudaQueue::timestamp() {
  return std::make_shared<CudaTimestamp>(record_event(*events_.timestamps), events_.timestamps);
}

void CudaQueue::begin_range(const char* name) { nvtxRangePushA(name); }
void CudaQueue::end_range() { nvtxRangePop(); }

void CudaQueue::wait(const GpuMark& mark) {
  const cudaEvent_t event = static_cast<const CudaMark&>(mark).event();
  if (event == nullptr) return;  // that queue's own error reaches whoever waits for the mark
  use_device();
  keep(cudaStreamWaitEvent(stream_, event, 0), "cudaStreamWaitEvent");
}

void CudaQueue::wait(const GpuCounter& counter, std::uint32_t value) {
  use_device();
  const auto& word = static_cast<const CudaCounter&>(counter);
  const CUresult result =
      state_->stream_wait_value.call(stream_, reinterpret_cast<CUdeviceptr>(word.address()), value, CU_STREAM_WAIT_VALUE_GEQ);
  if (result == CUDA_SUCCESS) return;
  const std::string refused = result == CUDA_ERROR_NOT_SUPPORTED ? "the device does not support it; set device.backend: host"
                                                                 : "CUresult " + std::to_string(static_cast<int>(result)) +
                                                                       "; " + cuda_advice(cudaErrorUnknown);
  state_->keep(
      Status(result == CUDA_ERROR_NOT_SUPPORTED ? Code::unsupported : Code::internal,
             "stream " + state_->name + ": cuStreamWaitValue32 on GPU " + std::to_string(state_->ordinal) + ": " + refused));
}

void CudaQueue::fail(const Status& status) { state_->keep(status); }

GpuFault* CudaQueue::fault() { return state_->fault; }

}  // namespace strata
