// A collective as rounds of bounded chunks: which bytes rank `from` sends to rank `to` in round k, and what a rank does with
// the bytes of all ranks once round k is there. Pure arithmetic over the arguments; how bytes travel is the business of the
// channels (node_channel.h inside a node, mpi_peers.h between nodes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "parallel/communicator.h"

namespace strata {

// Equal numbers mean: the same operation with the same sizes. Ranks compare them to find programs that went apart.
std::uint64_t signature_of(int operation, std::size_t element_size, std::span<const Slice> slices);

// acc[i] = ((acc[i] + x[0][i]) + x[1][i]) + ... in f32 for i in [0, n), x by rank; overwrite: what acc held is not added.
// The one definition of a reduction over ranks. acc overlaps no x.
void sum_in_rank_order(std::span<const float* const> x, float* acc, std::int64_t n, bool overwrite);

// Used by one thread, for one operation.
class Exchange {
 public:
  virtual ~Exchange() = default;
  const char* what() const { return what_; }
  std::int64_t rounds() const { return rounds_; }
  std::uint64_t signature() const { return signature_; }
  // Ranks tell each other about a round also where it carries no bytes.
  virtual bool notifies_without_bytes() const { return false; }
  // outgoing() does not depend on `to`.
  virtual bool same_to_all() const { return true; }

  // May be empty. Stays valid until the operation is complete.
  virtual std::span<const std::byte> outgoing(int to, std::int64_t round) const = 0;
  virtual std::size_t incoming_bytes(int from, std::int64_t round) const = 0;
  // Called once a round, in order. by_rank[r]: incoming_bytes(r, round) bytes of rank r; this rank's own are outgoing() to
  // itself.
  virtual void consume(std::int64_t round, std::span<const std::byte* const> by_rank) = 0;

 protected:
  Exchange(const char* what, std::int64_t rounds, std::uint64_t signature)
      : what_(what), rounds_(rounds), signature_(signature) {}

 private:
  const char* what_;
  std::int64_t rounds_;
  std::uint64_t signature_;
};

// Round k moves bytes [k * chunk_bytes, (k + 1) * chunk_bytes) of every rank's slice to all ranks.
class AllGatherExchange final : public Exchange {
 public:
  AllGatherExchange(const Communicator::AllGatherArgs& args, Rank self, std::size_t chunk_bytes);
  std::span<const std::byte> outgoing(int to, std::int64_t round) const override;
  std::size_t incoming_bytes(int from, std::int64_t round) const override;
  void consume(std::int64_t round, std::span<const std::byte* const> by_rank) override;

 private:
  std::size_t offset(std::int64_t round) const { return static_cast<std::size_t>(round) * chunk_bytes_; }
  std::byte* target(int rank) const;

  Communicator::AllGatherArgs args_;
  int self_;
  std::size_t chunk_bytes_;
  bool past_caches_;
  const std::byte* shard_;
};

// Round k moves elements [k * chunk, (k + 1) * chunk) of every rank's slice from all ranks to the slice's owner, which adds.
// chunk_bytes is a multiple of 4.
class ReduceScatterExchange final : public Exchange {
 public:
  ReduceScatterExchange(const Communicator::ReduceScatterArgs& args, Rank self, std::size_t chunk_bytes);
  bool same_to_all() const override { return false; }
  std::span<const std::byte> outgoing(int to, std::int64_t round) const override;
  std::size_t incoming_bytes(int from, std::int64_t round) const override;
  void consume(std::int64_t round, std::span<const std::byte* const> by_rank) override;

 private:
  // The elements of a rank's slice that belong to a round, counted from the start of `full`.
  Slice piece(int owner, std::int64_t round) const;

  Communicator::ReduceScatterArgs args_;
  int self_;
  std::int64_t chunk_;
};

// One round without bytes.
class BarrierExchange final : public Exchange {
 public:
  explicit BarrierExchange(const char* what);
  bool notifies_without_bytes() const override { return true; }
  std::span<const std::byte> outgoing(int, std::int64_t) const override { return {}; }
  std::size_t incoming_bytes(int, std::int64_t) const override { return 0; }
  void consume(std::int64_t, std::span<const std::byte* const>) override {}
};

}  // namespace strata
