// MPI as the launcher and the network of Strata: a session, and the communicator of all its ranks.
//
//   if (launched_under_mpi()) {
//     STRATA_ASSIGN_OR_RETURN(auto session, MpiSession::start());
//     STRATA_ASSIGN_OR_RETURN(auto world, make_world(*session, {}));
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace strata {

// From the environment that mpirun and srun give to a rank; calls no MPI, so that a plain start never does.
bool launched_under_mpi();

struct NodeInfo {
  int local_rank = 0;
  int local_size = 1;  // ranks on this host: what its cores are shared by
  std::string host;
};
// Of a process that runs alone.
NodeInfo this_node();

struct WorldOptions;

// MPI_Init_thread to MPI_Finalize. At most one in a process; outlives every communicator made from it. Where the program has
// initialised MPI itself (thread level MPI_THREAD_MULTIPLE), the session neither initialises nor finalises.
class MpiSession {
 public:
  static Result<std::unique_ptr<MpiSession>> start();
  // Finalises, which waits for all ranks, unless the session was abandoned or an exception is on its way: then the process
  // should end with a non-zero code, and mpirun stops the others.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  Rank rank() const { return rank_; }
  WorldSize size() const { return size_; }
  const NodeInfo& node() const { return node_; }
  // This rank will end without waiting for the others. Done by every communicator that fails. Any thread.
  void abandon() { abandoned_->store(true); }
  bool is_abandoned() const { return abandoned_->load(); }

 private:
  friend Result<std::unique_ptr<Communicator>> make_world(MpiSession& session, const WorldOptions& options,
                                                          std::vector<std::string>* notes);
  explicit MpiSession(bool owns_mpi);
  bool owns_mpi_;
  Rank rank_;
  WorldSize size_;
  NodeInfo node_;
  int exceptions_at_start_;
  std::shared_ptr<std::atomic<bool>> abandoned_;
};

struct WorldOptions {
  enum class SharedMemory {
    automatic,  // within a host where its processes can reach each other, which is decided once for all hosts; memory that
                // could be shared but fails (none is left) is an error
    on,         // an error where they cannot
    off,        // point-to-point also within a host
  };
  SharedMemory shared_memory = SharedMemory::automatic;
  // How long a rank may be behind the others before they give it up.
  std::chrono::milliseconds timeout{600'000};
  // Bytes a rank moves at once, multiple of 64; four of them are in flight. Does not affect results.
  std::size_t chunk_bytes = std::size_t{256} << 10;
  // For tests: the host of each rank, by rank, as if there were several. Empty: the real ones. Ranks of one entry are on one
  // real host.
  std::vector<int> pretended_hosts = {};
};

// The communicator of all ranks. Collective over the session; every rank passes the same options. When all ranks are on one
// host and share memory, no operation of it calls MPI. `notes` receives on every rank what the user should hear: why shared
// memory is not used although it was to be where it can.
Result<std::unique_ptr<Communicator>> make_world(MpiSession& session, const WorldOptions& options,
                                                 std::vector<std::string>* notes = nullptr);

}  // namespace strata
