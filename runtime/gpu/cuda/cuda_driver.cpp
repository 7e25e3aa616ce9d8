#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>

#include "runtime/gpu/cuda.h"
#include "runtime/gpu/cuda/cublas_gemm.h"
#include "runtime/gpu/cuda/cuda_queue.h"
#include "runtime/gpu/cuda/cuda_status.h"
#include "runtime/gpu/cuda/cudnn_attention.h"
#include "runtime/gpu/cufile.h"
#include "runtime/gpu/kernel_table.h"
#include "runtime/gpu/nvml.h"

namespace strata {

namespace gpu_cuda {
const GpuKernels& kernel_table();  // gpu/kernels/table.cu
}

namespace {

constexpr int kOldestMajor = 8;  // bf16 tensor cores and asynchronous copies
constexpr std::size_t kAlignment = 4096;

class CudaDriver final : public GpuDriver {
 public:
  CudaDriver(GpuProperties properties, CublasGemm gemm, std::unique_ptr<GpuAttention> attention)
      : properties_(std::move(properties)),
        events_(properties_.ordinal),
        gemm_(std::move(gemm)),
        attention_(std::move(attention)) {}

  const GpuProperties& properties() const override { return properties_; }
  const GpuKernels& kernels() const override { return gpu_cuda::kernel_table(); }

  // cudaMalloc promises 256 bytes; large allocations begin at a page anyhow. What does not gets a page more to begin in.
  Result<std::byte*> allocate_device(std::size_t bytes) override {
    STRATA_RETURN_IF_ERROR(use_gpu(properties_.ordinal));
    STRATA_ASSIGN_OR_RETURN(std::byte* const data, malloc_device(bytes));
    if (aligned(data) == data) return data;
    log(cudaFree(data), "cudaFree");
    STRATA_ASSIGN_OR_RETURN(std::byte* const larger, malloc_device(bytes + kAlignment));
    const std::lock_guard lock(moved_mutex_);
    moved_[aligned(larger)] = larger;
    return aligned(larger);
  }
  void free_device(std::byte* data) override {
    {
      const std::lock_guard lock(moved_mutex_);
      if (const auto found = moved_.find(data); found != moved_.end()) {
        data = found->second;
        moved_.erase(found);
      }
    }
    log(use_gpu(properties_.ordinal));
    log(cudaFree(data), "cudaFree");
  }

  // Mapped by us, in huge pages where the system has them: fewer entries in the GPU's and the processor's tables. Registering
  // makes every page resident.
  Result<std::byte*> allocate_pinned(std::size_t bytes) override {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
      return Status(Code::out_of_budget, "cannot map " + std::to_string(bytes) + " bytes; lower memory.cpu");
    madvise(data, bytes, MADV_HUGEPAGE);
    Status status = use_gpu(properties_.ordinal);
    if (status.ok())
      status = cuda_status(cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), "cudaHostRegister",
                           properties_.ordinal);
    if (status.ok()) return static_cast<std::byte*>(data);
    munmap(data, bytes);
    return status.with_context("locking " + std::to_string(bytes) + " bytes of host memory (see also `ulimit -l`)");
  }
  void free_pinned(std::byte* data, std::size_t bytes) override {
    log(use_gpu(properties_.ordinal));
    log(cudaHostUnregister(data), "cudaHostUnregister");
    munmap(data, bytes);
  }

  Result<std::unique_ptr<GpuQueue>> make_queue(const char* name) override {
    return CudaQueue::make(name, properties_, events_);
  }
  Result<std::shared_ptr<GpuCounter>> make_counter() override { return CudaCounter::make(properties_.ordinal); }
  Status use_on_this_thread() override { return use_gpu(properties_.ordinal); }
  std::string file_library() const override { return CuFile::kLibrary; }
  Result<GpuReadings> readings() override {
    const std::lock_guard lock(sensors_mutex_);
    if (!sensors_) sensors_ = open_sensors();
    STRATA_RETURN_IF_ERROR(sensors_->status());
    return sensors_->value().read();
  }
  void gemm(const kernels::Gemm& gemm, GpuQueue& queue) override { gemm_.enqueue(gemm, queue); }
  GpuAttention* attention() override { return attention_.get(); }

 private:
  static void log(const Status& status) {
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  }
  void log(cudaError_t error, const char* call) const { log(cuda_status(error, call, properties_.ordinal)); }

  static std::byte* aligned(std::byte* data) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(data) + kAlignment - 1) / kAlignment * kAlignment);
  }
  Result<std::byte*> malloc_device(std::size_t bytes) const {
    void* data = nullptr;
    const Status status = cuda_status(cudaMalloc(&data, bytes), "cudaMalloc", properties_.ordinal);
    if (!status.ok()) return status.with_context(std::to_string(bytes) + " bytes");
    return static_cast<std::byte*>(data);
  }

  Result<Nvml> open_sensors() const {
    char id[32] = {};
    STRATA_RETURN_IF_CUDA_ERROR(cudaDeviceGetPCIBusId(id, sizeof id, properties_.ordinal), properties_.ordinal);
    return Nvml::open(id);
  }

  GpuProperties properties_;
  const CudaEvents events_;
  CublasGemm gemm_;
  std::unique_ptr<GpuAttention> attention_;
  std::mutex moved_mutex_;
  std::map<std::byte*, std::byte*> moved_;  // what was handed out, and what cudaMalloc gave, where they differ
  std::mutex sensors_mutex_;
  std::optional<Result<Nvml>> sensors_;  // empty until somebody asks
};

}  // namespace

bool built_with_cuda() { return true; }

// cudaGetDeviceCount leaves its argument alone when there is no driver: only the code counts.
Result<int> cuda_device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    (void)cudaGetLastError();
    return Status(Code::unsupported, "no NVIDIA driver for CUDA 13 or newer is running on this machine");
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    (void)cudaGetLastError();
    return Status(Code::unsupported, "the NVIDIA driver shows no GPU to this process");
  }
  STRATA_RETURN_IF_ERROR(cuda_status(error, "cudaGetDeviceCount", 0));
  return count;
}

Result<std::unique_ptr<GpuDriver>> make_cuda_driver(const CudaOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const int count, cuda_device_count());
  if (options.ordinal < 0 || options.ordinal >= count)
    return Status(Code::invalid_argument,
                  "there is no GPU " + std::to_string(options.ordinal) + ": this process sees " + std::to_string(count));
  cudaDeviceProp found{};
  STRATA_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&found, options.ordinal), options.ordinal);
  GpuProperties properties = {.name = found.name,
                              .ordinal = options.ordinal,
                              .compute_major = found.major,
                              .compute_minor = found.minor,
                              .multiprocessors = found.multiProcessorCount,
                              .memory_bytes = found.totalGlobalMem,
                              .shared_bytes_per_block = found.sharedMemPerBlockOptin};
  if (found.major < kOldestMajor)
    return Status(Code::unsupported, "GPU " + std::to_string(options.ordinal) + " (" + properties.name +
                                         ") has compute capability " + std::to_string(found.major) + "." +
                                         std::to_string(found.minor) + "; 8.0 is the oldest that works");
  STRATA_RETURN_IF_ERROR(use_gpu(options.ordinal));
  STRATA_ASSIGN_OR_RETURN(CublasGemm gemm, CublasGemm::create(options.ordinal, options.tf32));
  std::unique_ptr<GpuAttention> attention;
  if (options.cudnn_attention) {
    STRATA_ASSIGN_OR_RETURN(attention, make_cudnn_attention(options.ordinal));
  }
  return std::unique_ptr<GpuDriver>(std::make_unique<CudaDriver>(std::move(properties), std::move(gemm), std::move(attention)));
}

}  // namespace strata
