// What Strata uses of NCCL. Bodies: the library itself (load_nccl), and one over emulated queues for tests
// (tests/emulator/nccl_emulated.h). Nothing here waits for another rank: what takes time leaves the communicator in progress,
// and poll() says when it is over, so that the caller can give up (nccl_communicator.cpp).
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "parallel/communicator.h"
#include "runtime/gpu/driver.h"

namespace strata {

// Names a group that is about to form. Made by one rank, given to the others.
struct NcclId {
  std::array<std::byte, 128> bytes{};
};

// One rank's part of a group. Operations are enqueued by one thread at a time, in the same order on all ranks, with device
// memory that stays alive until they are complete. Each call is one group of NCCL's; no other may follow before poll() says
// ready, and nothing else may be enqueued on that queue before. A failed call leaves the communicator good for abort() alone.
class NcclComm {
 public:
  virtual ~NcclComm() = default;  // aborts what was not finalised

  enum class State { ready, in_progress };
  // Any thread, never blocks. The first error that NCCL has met on this communicator, on its own threads too.
  virtual Result<State> poll() = 0;

  // `all`: bytes of rank 0, of rank 1, ... ; `mine` may be its place in there.
  virtual Status all_gather(const void* mine, void* all, std::size_t bytes, GpuQueue& queue) = 0;

  struct Broadcast {
    const void* from = nullptr;  // read on the root; may be `to`
    void* to = nullptr;
    std::size_t bytes = 0;
    int root = 0;
  };
  virtual Status broadcast(std::span<const Broadcast> broadcasts, GpuQueue& queue) = 0;

  struct Send {
    const void* from = nullptr;
    std::size_t bytes = 0;
    int to = 0;
  };
  struct Receive {
    void* to = nullptr;
    std::size_t bytes = 0;
    int from = 0;
  };
  // All at once: no send waits for another. Sizes are the same on both sides.
  virtual Status exchange(std::span<const Send> sends, std::span<const Receive> receives, GpuQueue& queue) = 0;

  // Begins to leave the group in order: what was enqueued still arrives everywhere. poll() until ready.
  virtual Status finalize() = 0;
  // Any thread, also while another is inside a call: makes what is enqueued end soon, on this rank, with worthless results.
  virtual void abort() = 0;
};

class NcclApi {
 public:
  virtual ~NcclApi() = default;  // after the communicators that came from it
  virtual std::string version() const = 0;
  virtual Result<NcclId> make_id() = 0;
  // Begins to form the group: in progress until every rank has joined. One rank a device.
  virtual Result<std::unique_ptr<NcclComm>> join(const NcclId& id, Rank rank, WorldSize size, GpuDriver& gpu) = 0;
};

// libnccl.so.2 of this machine, loaded when first asked for: a program that never communicates between GPUs runs without it.
// Error: unsupported, with what to install, where there is none, it is too old, or this build is without CUDA.
Result<std::shared_ptr<NcclApi>> load_nccl();

}  // namespace strata
