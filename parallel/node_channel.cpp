#include "parallel/node_channel.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <new>

#include "parallel/process_stat.h"

namespace strata {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kPage = 4096;

static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::uint64_t>::is_always_lock_free,
              "counters in shared memory must not hide a lock of one process");
static_assert(sizeof(std::atomic<std::uint32_t>) == 4, "a futex is four bytes");

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds at_most) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(at_most);
  const timespec timeout{static_cast<time_t>(seconds.count()), static_cast<long>((at_most - seconds).count())};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake(std::atomic<std::uint32_t>& word) { ::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

template <std::size_t N>
void copy_text(char (&to)[N], const char* from) {
  const std::size_t length = std::min(std::strlen(from), N - 1);
  std::memcpy(to, from, length);
  to[length] = '\0';
}

enum AbortState : std::uint32_t { abort_none, abort_writing, abort_written };

}  // namespace

// All zero: a rank that has not joined. Counters written by different ranks never share a cache line.
struct NodeChannel::RankBlock {
  alignas(kLine) std::atomic<std::uint32_t> doorbell;  // counts rings; the futex its rank sleeps on
  std::atomic<std::uint32_t> asleep;
  alignas(kLine) std::atomic<std::uint64_t> published;  // rounds
  alignas(kLine) std::atomic<std::uint64_t> released;   // rounds
  alignas(kLine) std::atomic<std::int32_t> pid;
  std::atomic<std::uint64_t> start_time;
  std::atomic<std::uint32_t> left;
  std::atomic<std::uint32_t> abort_state;
  char abort_reason[960];
};

struct NodeChannel::SlotHeader {
  alignas(kLine) std::uint64_t signature;
  char what[56];
};

std::size_t NodeChannel::blocks_bytes(const Shape& shape) {
  const std::size_t bytes = static_cast<std::size_t>(shape.ranks) * sizeof(RankBlock);
  return (bytes + kPage - 1) / kPage * kPage;
}

std::size_t NodeChannel::slot_stride(const Shape& shape) { return sizeof(SlotHeader) + shape.slot_bytes; }

Result<std::shared_ptr<SharedMemory>> NodeChannel::create(const Shape& shape) {
  STRATA_CHECK(shape.ranks >= 1 && shape.slots >= 1 && shape.slot_bytes % kLine == 0, "a channel has ranks and whole slots");
  const auto slots = static_cast<std::size_t>(shape.ranks) * static_cast<std::size_t>(shape.slots);
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<SharedMemory> memory,
                          SharedMemory::create(blocks_bytes(shape) + slots * slot_stride(shape)));
  for (int r = 0; r < shape.ranks; ++r)
    new (memory->bytes().data() + static_cast<std::size_t>(r) * sizeof(RankBlock)) RankBlock{};
  return memory;
}

NodeChannel::NodeChannel(std::shared_ptr<SharedMemory> memory, const Shape& shape, int self)
    : memory_(std::move(memory)), shape_(shape), self_(self) {
  STRATA_CHECK(self >= 0 && self < shape.ranks, "a local rank of the group");
  const int pid = static_cast<int>(::getpid());
  const std::optional<ProcessStat> stat = read_process(pid);
  block(self).start_time.store(stat ? stat->start_time : 0);
  block(self).pid.store(pid, std::memory_order_release);
}

NodeChannel::~NodeChannel() = default;

NodeChannel::RankBlock& NodeChannel::block(int rank) const {
  return *std::launder(
      reinterpret_cast<RankBlock*>(memory_->bytes().data() + static_cast<std::size_t>(rank) * sizeof(RankBlock)));
}

NodeChannel::SlotHeader& NodeChannel::header(int rank, std::uint64_t round) const {
  const auto slots = static_cast<std::uint64_t>(shape_.slots);
  const std::size_t index = static_cast<std::uint64_t>(rank) * slots + round % slots;
  return *reinterpret_cast<SlotHeader*>(memory_->bytes().data() + blocks_bytes(shape_) + index * slot_stride(shape_));
}

std::span<std::byte> NodeChannel::slot(int rank, std::uint64_t round) const {
  return {reinterpret_cast<std::byte*>(&header(rank, round) + 1), shape_.slot_bytes};
}

bool NodeChannel::has_released_slot_of(int peer, std::uint64_t round) const {
  const auto slots = static_cast<std::uint64_t>(shape_.slots);
  return round < slots || block(peer).released.load(std::memory_order_acquire) > round - slots;
}

void NodeChannel::publish(std::uint64_t round, std::uint64_t signature, const char* what) {
  SlotHeader& head = header(self_, round);
  head.signature = signature;
  copy_text(head.what, what);
  block(self_).published.store(round + 1, std::memory_order_release);
  ring_peers();
}

bool NodeChannel::has_published(int peer, std::uint64_t round) const {
  return block(peer).published.load(std::memory_order_acquire) > round;
}

std::uint64_t NodeChannel::published_signature(int peer, std::uint64_t round) const { return header(peer, round).signature; }

std::string NodeChannel::published_what(int peer, std::uint64_t round) const { return header(peer, round).what; }

void NodeChannel::release(std::uint64_t round) {
  block(self_).released.store(round + 1, std::memory_order_release);
  ring_peers();
}

// A ringer changes its counter, then the doorbell, then reads `asleep`; a sleeper sets `asleep`, then reads the doorbell, then
// the counters. In the single order of the sequentially consistent operations one of the two sees the other.
void NodeChannel::ring_peers() {
  for (int r = 0; r < shape_.ranks; ++r) {
    if (r == self_) continue;
    RankBlock& peer = block(r);
    peer.doorbell.fetch_add(1);
    if (peer.asleep.load() != 0) futex_wake(peer.doorbell);
  }
}

std::uint32_t NodeChannel::prepare_to_sleep() {
  block(self_).asleep.store(1);
  return block(self_).doorbell.load();
}

void NodeChannel::sleep(std::uint32_t ticket, std::chrono::nanoseconds at_most) {
  futex_wait(block(self_).doorbell, ticket, at_most);
  stay_awake();
}

void NodeChannel::stay_awake() { block(self_).asleep.store(0, std::memory_order_relaxed); }

int NodeChannel::pid(int peer) const { return block(peer).pid.load(std::memory_order_acquire); }

NodeChannel::PeerState NodeChannel::state(int peer) const {
  const int process = pid(peer);
  if (process == 0) return PeerState::absent;
  if (block(peer).left.load(std::memory_order_acquire) != 0) return PeerState::left;
  return process_is_dead(process, block(peer).start_time.load()) ? PeerState::dead : PeerState::alive;
}

void NodeChannel::leave() {
  block(self_).left.store(1, std::memory_order_release);
  ring_peers();
}

void NodeChannel::abort(const std::string& reason) {
  RankBlock& mine = block(self_);
  std::uint32_t expected = abort_none;
  if (!mine.abort_state.compare_exchange_strong(expected, abort_writing)) return;
  copy_text(mine.abort_reason, reason.c_str());
  mine.abort_state.store(abort_written);
  ring_peers();
}

std::optional<NodeChannel::Abort> NodeChannel::aborted() const {
  for (int r = 0; r < shape_.ranks; ++r)
    if (block(r).abort_state.load(std::memory_order_acquire) == abort_written) return Abort{r, block(r).abort_reason};
  return std::nullopt;
}

}  // namespace strata
