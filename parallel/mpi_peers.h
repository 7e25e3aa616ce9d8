// Exchange with the ranks that share no memory with this one: point-to-point MPI, a bounded number of rounds in flight,
// progressed only by poll() (this library's MPI has no progress of its own), which never blocks and never spins.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parallel/exchange.h"
#include "runtime/status.h"

namespace strata {

// Status of an MPI return code; ok for MPI_SUCCESS.
Status mpi_status(int code, const char* call);

// A communicator of MPI's that returns its errors. Waits for every rank without a timeout. Not freed one by one: MPI_Comm_free
// is collective, and ranks destroy their communicators in no agreed order; MPI_Finalize releases them.
Result<MPI_Comm> duplicate_comm(MPI_Comm comm);

// Carries the reason of a rank that gives up to the ranks that share no memory with it. One for a world and its duplicates.
class MpiAbortLine {
 public:
  MpiAbortLine(MPI_Comm comm, Rank self, std::vector<int> peers);
  // Any thread; never blocks. The first reason is kept.
  void abort(const std::string& reason);
  struct Abort {
    int rank;
    std::string reason;
  };
  // Any thread. This rank's own too. Also drives MPI's progress.
  std::optional<Abort> poll();

 private:
  const MPI_Comm comm_;
  const Rank self_;
  const std::vector<int> peers_;
  std::mutex mutex_;
  std::optional<Abort> known_;
  std::string* sent_ = nullptr;  // never freed: MPI may read it until the process ends
};

// Used by one thread at a time. Rounds are numbered from 0 over the life of the object.
class MpiPeers {
 public:
  // peers: ranks of `comm` this one exchanges with. depth: rounds in flight.
  MpiPeers(MPI_Comm comm, std::vector<int> peers, std::size_t chunk_bytes, int depth);
  ~MpiPeers();
  MpiPeers(const MpiPeers&) = delete;
  MpiPeers& operator=(const MpiPeers&) = delete;

  const std::vector<int>& peers() const { return peers_; }
  std::size_t chunk_bytes() const { return chunk_bytes_; }

  // Sends of round - depth to this peer (by its index in peers()) are complete.
  bool can_post(std::size_t peer, std::uint64_t round) const;
  // Starts all sends and receives of a round of the exchange; `round` counts over the life, `exchange_round` within it.
  Status post(Exchange& exchange, std::int64_t exchange_round, std::uint64_t round);
  bool has_arrived(std::size_t peer, std::uint64_t round) const;
  const std::byte* received(std::size_t peer, std::uint64_t round) const;
  // All sends to this peer are complete.
  bool has_sent(std::size_t peer) const;
  // Drives what is in flight. `what` names the operation in errors.
  Status poll(const char* what);
  // A second one over the same ranks. Collective; blocks in MPI.
  Result<std::unique_ptr<MpiPeers>> duplicate() const;

 private:
  std::size_t index(std::size_t peer, std::uint64_t round) const {
    return static_cast<std::size_t>(round % static_cast<std::uint64_t>(depth_)) * peers_.size() + peer;
  }
  Status check_length(std::size_t receive, const MPI_Status& status, const char* what) const;

  const MPI_Comm comm_;
  const std::vector<int> peers_;
  const std::size_t chunk_bytes_;
  const int depth_;
  // Receives, then sends: depth x peers of each.
  std::vector<MPI_Request> requests_;
  std::vector<std::size_t> expected_;  // bytes, by receive
  std::vector<std::byte> buffer_;      // chunk_bytes for each receive
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace strata
