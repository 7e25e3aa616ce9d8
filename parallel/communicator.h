// One group of ranks along one mesh axis. Bodies: MPI (mpi_communicator.h), threads of one process (thread_communicator.h),
// one rank alone (a group of threads of size 1), and NCCL for memory of GPUs beside any of these (nccl_communicator.h).
//
// Ordering. Operations of one communicator must be issued in the same order on every rank. Data-plane operations are
// enqueued on the given stream; control-plane ones block the caller. The two planes must not be mixed on one communicator
// from different threads: take a duplicate() for each thread or stream that communicates.
// Failure. A peer that died, or that does not arrive within the group's timeout, is a Status (peer_lost) that names the rank,
// the operation and, where known, what happened to it. The death of a process is noticed within moments where shared memory
// reaches it. Elsewhere (another host, or shared memory off) a dead peer looks like a slow one: mpirun and srun end the job,
// and where they do not, the timeout bounds the wait. duplicate() between hosts meets in a barrier first, but MPI_Comm_dup,
// which follows, has no timeout: only the launcher ends the wait for a rank that dies between the two. Ranks that issue
// different operations, or the same with different sizes, get Code::internal. After an error the communicator is unusable: it
// returns its first error again.
//
// Sums. Always in rank order: ((acc + x_0) + x_1) + ..., in f32, each rank adding for the slice it owns. The result does not
// depend on message size, on the number of chunks or on where the ranks are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "runtime/stream.h"

namespace strata {

struct Rank {
  int v = 0;
  auto operator<=>(const Rank&) const = default;
};
struct WorldSize {
  int v = 1;
  auto operator<=>(const WorldSize&) const = default;
};

// Elements [first, first + count) of a flat tensor.
struct Slice {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t end() const { return first + count; }
  bool operator==(const Slice&) const = default;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual Rank rank() const = 0;
  virtual WorldSize size() const = 0;
  // A second group of the same ranks whose operations are independent of this one's. Collective.
  virtual Result<std::unique_ptr<Communicator>> duplicate() = 0;

  // ---- data plane: enqueued on `stream`; buffers stay alive until the operation is complete ----
  struct AllGatherArgs {
    const void* shard = nullptr;      // this rank's slice; null: already in place inside `full`
    void* full = nullptr;             // all elements
    std::size_t element_size = 4;     // bytes
    std::span<const Slice> slices;    // by rank; disjoint; may be empty slices; must stay alive like the buffers
    const char* what = "all_gather";  // literal, for traces and errors
  };
  void all_gather(const AllGatherArgs& args, StreamRef stream);

  struct ReduceScatterArgs {
    const float* full = nullptr;  // this rank's contribution to all elements; does not overlap acc
    float* acc = nullptr;         // slices[rank].count elements: acc = ((acc + x_0) + x_1) + ... over ranks' contributions x
    std::span<const Slice> slices;
    bool overwrite = false;  // acc = (x_0 + x_1) + ... : what acc held is ignored
    const char* what = "reduce_scatter";
  };
  void reduce_scatter_add(const ReduceScatterArgs& args, StreamRef stream);

  // ---- control plane: blocks the caller ----
  virtual Status barrier(const char* what) = 0;
  // Every rank's bytes, by rank; sizes may differ.
  virtual Result<std::vector<std::vector<std::byte>>> gather_all(std::span<const std::byte> mine, const char* what);
  // Overwrites `bytes` (same size everywhere) with the root's.
  virtual Status broadcast(std::span<std::byte> bytes, Rank root, const char* what);
  // Tells the other ranks, as far as they can be reached, that this rank gives up with `reason`: pending and later operations
  // of this communicator, of the one it was duplicated from and of all duplicates return peer_lost with it, here and on the
  // other ranks. Any thread; never blocks; the first reason is kept.
  virtual void abort(const std::string& reason) = 0;

 protected:
  // What all_gather and reduce_scatter_add do once the arguments are checked: here, append do_* to a stream of the host's.
  virtual void enqueue_all_gather(const AllGatherArgs& args, StreamRef stream);
  virtual void enqueue_reduce_scatter_add(const ReduceScatterArgs& args, StreamRef stream);
  // Bodies of the data plane; run on the stream's worker, may block. The control plane uses do_all_gather on the caller.
  virtual Status do_all_gather(const AllGatherArgs& args) = 0;
  virtual Status do_reduce_scatter_add(const ReduceScatterArgs& args) = 0;
};

}  // namespace strata
