// The seam between Strata and a GPU: memory, in-order queues, marks and times in them, and the table of kernels. Bodies: CUDA
// (cuda.h), and one that runs kernels on CPU threads (tests/emulator), so that everything above this header is tested
// where there is no GPU. Device, Stream, Event and TierArena (stream.h, arena.h) are what the rest of Strata uses.
//
// Threads: a driver may be used from any thread; a queue by one thread at a time. Nothing here throws; what fails returns a
// Status that names the call, the device and what to do, or is kept by the queue and returned by its next mark's wait().
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <typeindex>

#include "runtime/gpu/fault.h"
#include "runtime/gpu/readings.h"
#include "runtime/status.h"

namespace strata {

class GpuAttention;
struct GpuKernels;
namespace kernels {
struct Gemm;
}

// What kernel launchers may ask about the device.
struct GpuProperties {
  std::string name;
  int ordinal = 0;  // among the devices this process sees
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;            // in all
  std::size_t shared_bytes_per_block = 0;  // the most a kernel may ask for
};

// A point in a queue. Shared by events; destroyed from any thread.
class GpuMark {
 public:
  virtual ~GpuMark() = default;
  virtual bool is_complete() const = 0;
  // Blocks the calling thread (sleeping) until the queue has reached the mark; the first error of the queue so far.
  virtual Status wait() const = 0;
};

// A point in a queue whose time can be told. A type of its own: taking the time costs the GPU more than a mark.
class GpuTimestamp {
 public:
  virtual ~GpuTimestamp() = default;
  virtual bool is_complete() const = 0;
  // Seconds from `earlier` until this point. Both are complete, of queues of one driver. 0 after an error of the queue.
  virtual double seconds_since(const GpuTimestamp& earlier) const = 0;
};

// A counter in host memory that a queue can wait for and a host thread advances: how a GPU waits for host work.
class GpuCounter {
 public:
  virtual ~GpuCounter() = default;
  // Any one thread; values never go down. Makes what that thread wrote before visible to the queues that wait for `value`.
  virtual void set(std::uint32_t value) = 0;
};

class GpuQueue {
 public:
  virtual ~GpuQueue() = default;  // waits for what is enqueued
  virtual void copy(const void* from, void* to, std::size_t n) = 0;
  virtual void zero(void* to, std::size_t n) = 0;
  virtual std::shared_ptr<GpuMark> mark() = 0;
  virtual std::shared_ptr<GpuTimestamp> timestamp() = 0;
  virtual void wait(const GpuMark& mark) = 0;
  virtual void wait(const GpuCounter& counter, std::uint32_t value) = 0;  // until the counter is at least `value`
  // What the calling thread enqueues, on any queue, between the two is shown under `name` by profilers (NVTX). They nest.
  virtual void begin_range(const char* name) = 0;
  virtual void end_range() = 0;
  // The handle that launchers need: cudaStream_t, or the emulator's queue.
  virtual void* native() = 0;
  virtual const GpuProperties& properties() const = 0;
  // Any thread. Keeps the first error of an enqueued operation (a launch that was refused); mark().wait() returns it from then
  // on.
  virtual void fail(const Status& status) = 0;
  // Where kernels report bad input. Visible to the device.
  virtual GpuFault* fault() = 0;
  // Device memory for partial sums and library workspaces, 256-byte aligned, valid for one operation: the queue is in order.
  std::span<std::byte> scratch() const { return scratch_; }
  void set_scratch(std::span<std::byte> scratch) { scratch_ = scratch; }

 private:
  std::span<std::byte> scratch_;
};

class GpuDriver {
 public:
  virtual ~GpuDriver() = default;
  virtual const GpuProperties& properties() const = 0;
  virtual const GpuKernels& kernels() const = 0;
  // Aligned to 4096 bytes, uninitialised.
  virtual Result<std::byte*> allocate_device(std::size_t bytes) = 0;
  virtual void free_device(std::byte* data) = 0;
  // Page-locked host memory, huge pages where the system has them; usable for O_DIRECT and by the device at the same address.
  virtual Result<std::byte*> allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(std::byte* data, std::size_t bytes) = 0;
  virtual Result<std::unique_ptr<GpuQueue>> make_queue(const char* name) = 0;
  virtual Result<std::shared_ptr<GpuCounter>> make_counter() = 0;
  // Makes the device the calling thread's, for a vendor's library that is called there.
  virtual Status use_on_this_thread() = 0;
  // The library that moves bytes between files and this device's memory (cufile.h).
  virtual std::string file_library() const = 0;
  // What the device's sensors say now: a call of some milliseconds. Error unsupported: why nothing can be read.
  virtual Result<GpuReadings> readings() = 0;
  // C = A B (+ bias) or C += A B on the queue, with its epilogue, by the vendor's library (kernels/gemm.h has the meaning of
  // the fields); an epilogue that the library has not got is a kernel behind the product. The same shape gets the same
  // algorithm, so the same bits, in every run on this kind of device. Workspace is the queue's scratch.
  virtual void gemm(const kernels::Gemm& gemm, GpuQueue& queue) = 0;
  // The vendor's fused attention, where it was asked for (library_attention.h); else null, and the table's is used.
  virtual GpuAttention* attention() { return nullptr; }

  // Tables of the kernels that folders above this one bring (optim/gpu_kernels.h, parallel/gpu_kernels.h), by type. Added by
  // whoever makes the driver, before it is used; they outlive it.
  template <class Table>
  void add_table(const Table& table) {
    tables_[typeid(Table)] = &table;
  }
  template <class Table>
  const Table& table() const {
    const auto found = tables_.find(typeid(Table));
    STRATA_CHECK(found != tables_.end(), "this driver was made without the kernels that are asked for");
    return *static_cast<const Table*>(found->second);
  }

 private:
  std::map<std::type_index, const void*> tables_;
};

}  // namespace strata
