// Exchange between the ranks of one host through shared memory. Every rank has a ring of staging slots that only it writes
// and all others read, two counters (rounds published, rounds released), and a doorbell on which it sleeps. No call into MPI,
// no lock: a rank that dies at any instant leaves nothing held.
//
// Rounds are numbered from 0 over the life of the channel. Slot round % slots carries the round; it may be written once every
// peer has released round - slots. Ranks here are local: 0 .. ranks - 1 of this host.
// Threads: one thread of a rank runs its operations; abort() and aborted() may be called from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/shared_memory.h"
#include "runtime/status.h"

namespace strata {

class NodeChannel {
 public:
  struct Shape {
    int ranks = 1;
    std::size_t slot_bytes = std::size_t{1} << 20;  // multiple of 64
    int slots = 4;
  };

  // Memory for a group, by one of its ranks (or a process that forks them).
  static Result<std::shared_ptr<SharedMemory>> create(const Shape& shape);
  // Joins as local rank `self`; every rank of the group does so once, with the same shape.
  NodeChannel(std::shared_ptr<SharedMemory> memory, const Shape& shape, int self);
  ~NodeChannel();
  NodeChannel(const NodeChannel&) = delete;
  NodeChannel& operator=(const NodeChannel&) = delete;

  const Shape& shape() const { return shape_; }
  int self() const { return self_; }

  // ---- moving bytes ----
  bool has_released_slot_of(int peer, std::uint64_t round) const;
  std::span<std::byte> slot(int rank, std::uint64_t round) const;  // slot_bytes
  // What was written into slot(self, round) becomes readable. `what` and `signature` say which operation it belongs to.
  void publish(std::uint64_t round, std::uint64_t signature, const char* what);
  bool has_published(int peer, std::uint64_t round) const;
  std::uint64_t published_signature(int peer, std::uint64_t round) const;
  std::string published_what(int peer, std::uint64_t round) const;
  // This rank has read what it wanted of the round.
  void release(std::uint64_t round);

  // ---- waiting ----
  // ticket = prepare_to_sleep(); look again for what is awaited; then sleep(ticket) or, when it was there, stay_awake().
  std::uint32_t prepare_to_sleep();
  void sleep(std::uint32_t ticket, std::chrono::nanoseconds at_most);
  void stay_awake();

  // ---- peers ----
  enum class PeerState {
    absent,  // has not joined
    alive,
    dead,
    left,  // has said that it will take no further part
  };
  PeerState state(int peer) const;
  int pid(int peer) const;  // 0: absent
  void leave();
  // The first reason of this rank is kept; later ones are ignored. Wakes everybody.
  void abort(const std::string& reason);
  struct Abort {
    int rank;
    std::string reason;
  };
  std::optional<Abort> aborted() const;

 private:
  struct RankBlock;
  struct SlotHeader;
  static std::size_t blocks_bytes(const Shape& shape);
  static std::size_t slot_stride(const Shape& shape);
  RankBlock& block(int rank) const;
  SlotHeader& header(int rank, std::uint64_t round) const;
  void ring_peers();

  std::shared_ptr<SharedMemory> memory_;
  Shape shape_;
  int self_;
};

}  // namespace strata
