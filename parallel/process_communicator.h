// A group whose ranks are processes: through shared memory with those of the same host, through point-to-point MPI with the
// others. Both carry the same rounds of chunks (exchange.h), and reductions are made by the slice's owner in rank order, so
// that which way a chunk came cannot be seen in the result. Made by make_world (mpi_communicator.h); tests make it from a
// NodeChannel alone, without MPI.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/node_setup.h"

namespace strata {

class Exchange;
class MpiAbortLine;
class MpiPeers;

class ProcessCommunicator final : public Communicator {
 public:
  using Member = GroupMember;
  struct Group {
    Rank self;
    std::vector<Member> members;  // by rank
    std::chrono::milliseconds timeout{600'000};
    std::size_t gather_chunk = 0;      // bytes; the same on all ranks, at most what every channel carries
    std::size_t reduce_chunk = 0;      // bytes, a multiple of 64; the same on all ranks
    std::function<void()> on_failure;  // called once, from any thread, when the communicator becomes unusable; may be empty
  };
  // All ranks on one host, without MPI.
  ProcessCommunicator(Group group, std::shared_ptr<NodeChannel> node);
  // node: null on all ranks or on none (a rank alone on its host has a channel of one). remote and abort_line: null where all
  // ranks share one channel. Both channels are kRoundsInFlight deep.
  ProcessCommunicator(Group group, std::shared_ptr<NodeChannel> node, std::unique_ptr<MpiPeers> remote,
                      std::shared_ptr<MpiAbortLine> abort_line);
  ~ProcessCommunicator() override;

  Rank rank() const override { return group_.self; }
  WorldSize size() const override { return {static_cast<int>(group_.members.size())}; }
  Result<std::unique_ptr<Communicator>> duplicate() override;
  Status barrier(const char* what) override;
  void abort(const std::string& reason) override;

  // Depth of the channels' rings.
  static constexpr int kRoundsInFlight = 4;
  // The largest chunk of a reduction for which a slot of `slot_bytes` holds one for each of the other ranks of a node.
  static std::size_t reduce_chunk_for(std::size_t slot_bytes, int largest_node);

 protected:
  Status do_all_gather(const AllGatherArgs& args) override;
  Status do_reduce_scatter_add(const ReduceScatterArgs& args) override;

 private:
  struct Peer {
    int rank;
    int local;           // rank within the node channel, or -1
    std::size_t remote;  // index within the MPI peers, when local is -1
  };
  using Awaited = std::function<bool(const Peer&)>;

  Status run(Exchange& exchange);
  Status run_rounds(Exchange& exchange);
  Status send(Exchange& exchange, std::int64_t round);
  Status receive(Exchange& exchange, std::int64_t round);
  Status drain_sends(const Exchange& exchange);
  void stage(Exchange& exchange, std::int64_t round);
  Status check_same_operation(const Exchange& exchange, const Peer& peer, std::uint64_t round) const;
  Status wait(const char* what, const Awaited& awaited);
  bool any(const Awaited& awaited) const;
  void sleep(const Awaited& awaited, std::chrono::nanoseconds at_most);
  Status check_peers(const char* what, const Awaited& awaited, std::chrono::steady_clock::duration waited) const;
  Status check_aborted(const char* what) const;
  Status fail(Status status);
  std::string name_of(int rank) const;
  const std::byte* arrived(const Peer& peer, const Exchange& exchange, std::uint64_t round) const;
  Result<std::shared_ptr<NodeChannel>> duplicate_node();

  Group group_;
  std::shared_ptr<NodeChannel> node_;
  std::shared_ptr<NodeChannel> abort_board_;  // the channel of the world this is a duplicate of
  std::unique_ptr<MpiPeers> remote_;
  std::shared_ptr<MpiAbortLine> abort_line_;
  std::vector<Peer> peers_;  // all other ranks, by rank
  std::vector<int> rank_of_local_;
  std::uint64_t next_round_ = 0;  // counted over the life
  Status failure_;                // first failure; sticky
};

}  // namespace strata
