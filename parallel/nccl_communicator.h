// The data plane in GPU memory: NCCL moves the bytes, and a host communicator of the same ranks does all the rest (control
// plane, forming the group, noticing who is lost). Operations on a stream that the GPU serves become NCCL operations and
// kernels of its queue, with device memory; operations on a stream that the host serves are the host communicator's, with host
// memory.
//
// Sums. NCCL adds in an order of its own, so it only carries the contributions, in chunks that fit the scratch of the queue,
// and a kernel adds them in rank order: the host's bits.
//
// Failure as communicator.h says. A NCCL operation cannot be stopped alone: after the first error of one communicator, all of
// its family (duplicates included) are aborted. The call that issues an operation blocks only while NCCL connects GPUs for
// it, which is nearly always over when the communicator is made; then too the timeout holds.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "parallel/communicator.h"
#include "parallel/nccl_api.h"
#include "runtime/gpu/driver.h"

namespace strata {

struct NcclOptions {
  std::string axis = "world";                         // names the group in messages; at most 40 characters
  std::chrono::milliseconds timeout{600'000};         // how long a rank may be behind the others
  std::chrono::milliseconds interval{100};            // between two looks at the other ranks
  std::size_t scratch_bytes = std::size_t{64} << 20;  // of every queue that reductions are enqueued on, at least
  std::size_t connect_bytes = std::size_t{16} << 20;  // device memory that making a communicator takes for moments
};

// Collective; every rank passes the same options. inner: becomes part of it. nccl: null only where the group has one rank,
// which needs no NCCL. gpu: this rank's, which no other rank uses; outlives the communicator and has ParallelGpuKernels. The
// scratch and the number of chunks change no bit.
Result<std::unique_ptr<Communicator>> make_nccl_communicator(std::unique_ptr<Communicator> inner, std::shared_ptr<NcclApi> nccl,
                                                             GpuDriver& gpu, const NcclOptions& options);

}  // namespace strata
