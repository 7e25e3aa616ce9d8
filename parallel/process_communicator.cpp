#include "parallel/process_communicator.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "parallel/exchange.h"
#include "parallel/mpi_peers.h"

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;

// A peer that does the same work arrives about now: worth a look or two before the cost of sleeping.
constexpr std::chrono::microseconds kSpin{10};
// How long a rank sleeps at most before it looks after its peers.
constexpr std::chrono::milliseconds kCheckInterval{100};
// MPI moves bytes only while it is polled: the longest sleep between polls while bytes may be moving, and when nothing moves.
constexpr std::chrono::microseconds kPoll{100};
constexpr std::chrono::microseconds kIdlePoll{1000};
constexpr std::chrono::milliseconds kIdleAfter{20};
// A rank stages this many rounds before it takes the first: what a peer may lag without stopping it.
constexpr std::int64_t kRoundsAhead = 2;
static_assert(kRoundsAhead < ProcessCommunicator::kRoundsInFlight);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

std::string seconds_text(Clock::duration duration) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s", std::chrono::duration<double>(duration).count());
  return text;
}

}  // namespace

ProcessCommunicator::ProcessCommunicator(Group group, std::shared_ptr<NodeChannel> node, std::unique_ptr<MpiPeers> remote,
                                         std::shared_ptr<MpiAbortLine> abort_line)
    : group_(std::move(group)),
      node_(std::move(node)),
      abort_board_(node_),
      remote_(std::move(remote)),
      abort_line_(std::move(abort_line)) {
  const Member& self = group_.members[static_cast<std::size_t>(group_.self.v)];
  STRATA_CHECK(!node_ || node_->self() == self.local, "the channel is this rank's");
  rank_of_local_.resize(node_ ? static_cast<std::size_t>(node_->shape().ranks) : 0);
  std::size_t remote_index = 0;
  for (int r = 0; r < size().v; ++r) {
    const Member& member = group_.members[static_cast<std::size_t>(r)];
    const bool local = node_ && member.node == self.node;
    if (local) rank_of_local_[static_cast<std::size_t>(member.local)] = r;
    if (r == group_.self.v) continue;
    peers_.push_back({r, local ? member.local : -1, local ? 0 : remote_index});
    if (!local) ++remote_index;
  }
  STRATA_CHECK(remote_index == (remote_ ? remote_->peers().size() : 0), "MPI reaches exactly the ranks shared memory does not");
}

ProcessCommunicator::ProcessCommunicator(Group group, std::shared_ptr<NodeChannel> node)
    : ProcessCommunicator(std::move(group), std::move(node), nullptr, nullptr) {}

ProcessCommunicator::~ProcessCommunicator() {
  if (node_) node_->leave();
}

std::size_t ProcessCommunicator::reduce_chunk_for(std::size_t slot_bytes, int largest_node) {
  const auto others = static_cast<std::size_t>(std::max(1, largest_node - 1));
  return slot_bytes / others / 64 * 64;
}

Status ProcessCommunicator::do_all_gather(const AllGatherArgs& args) {
  AllGatherExchange exchange(args, group_.self, group_.gather_chunk);
  return run(exchange);
}

Status ProcessCommunicator::do_reduce_scatter_add(const ReduceScatterArgs& args) {
  ReduceScatterExchange exchange(args, group_.self, group_.reduce_chunk);
  return run(exchange);
}

Status ProcessCommunicator::barrier(const char* what) {
  BarrierExchange exchange(what);
  return run(exchange);
}

// ---- rounds ----

Status ProcessCommunicator::run(Exchange& exchange) {
  if (!failure_.ok()) return failure_;
  if (Status aborted = check_aborted(exchange.what()); !aborted.ok()) return fail(std::move(aborted));
  if (Status status = run_rounds(exchange); !status.ok()) return fail(std::move(status));
  return {};
}

Status ProcessCommunicator::run_rounds(Exchange& exchange) {
  const std::int64_t rounds = exchange.rounds();
  const std::int64_t ahead = std::min(kRoundsAhead, rounds);
  for (std::int64_t k = 0; k < rounds + ahead; ++k) {
    if (k < rounds) STRATA_RETURN_IF_ERROR(send(exchange, k));
    if (k >= ahead) STRATA_RETURN_IF_ERROR(receive(exchange, k - ahead));
  }
  STRATA_RETURN_IF_ERROR(drain_sends(exchange));
  next_round_ += static_cast<std::uint64_t>(rounds);
  return {};
}

Status ProcessCommunicator::send(Exchange& exchange, std::int64_t k) {
  const std::uint64_t round = next_round_ + static_cast<std::uint64_t>(k);
  STRATA_RETURN_IF_ERROR(wait(exchange.what(), [&](const Peer& peer) {
    return peer.local >= 0 ? !node_->has_released_slot_of(peer.local, round) : !remote_->can_post(peer.remote, round);
  }));
  if (remote_) STRATA_RETURN_IF_ERROR(remote_->post(exchange, k, round));
  if (node_) {
    stage(exchange, k);
    node_->publish(round, exchange.signature(), exchange.what());
  }
  return {};
}

// The slot holds one chunk for all peers, or one for each of them in order of their local rank.
void ProcessCommunicator::stage(Exchange& exchange, std::int64_t k) {
  std::span<std::byte> slot = node_->slot(node_->self(), next_round_ + static_cast<std::uint64_t>(k));
  int place = 0;
  for (int local = 0; local < node_->shape().ranks; ++local) {
    if (local == node_->self()) continue;
    const std::span<const std::byte> bytes = exchange.outgoing(rank_of_local_[static_cast<std::size_t>(local)], k);
    const std::size_t at = static_cast<std::size_t>(place++) * group_.reduce_chunk;
    if (!bytes.empty()) std::memcpy(slot.data() + (exchange.same_to_all() ? 0 : at), bytes.data(), bytes.size());
    if (exchange.same_to_all()) return;
  }
}

const std::byte* ProcessCommunicator::arrived(const Peer& peer, const Exchange& exchange, std::uint64_t round) const {
  if (peer.local < 0) return remote_->received(peer.remote, round);
  const int place = node_->self() < peer.local ? node_->self() : node_->self() - 1;
  const std::size_t at = exchange.same_to_all() ? 0 : static_cast<std::size_t>(place) * group_.reduce_chunk;
  return node_->slot(peer.local, round).data() + at;
}

Status ProcessCommunicator::receive(Exchange& exchange, std::int64_t k) {
  const std::uint64_t round = next_round_ + static_cast<std::uint64_t>(k);
  STRATA_RETURN_IF_ERROR(wait(exchange.what(), [&](const Peer& peer) {
    return peer.local >= 0 ? !node_->has_published(peer.local, round) : !remote_->has_arrived(peer.remote, round);
  }));
  std::vector<const std::byte*> by_rank(group_.members.size());
  by_rank[static_cast<std::size_t>(group_.self.v)] = exchange.outgoing(group_.self.v, k).data();
  for (const Peer& peer : peers_) {
    STRATA_RETURN_IF_ERROR(check_same_operation(exchange, peer, round));
    by_rank[static_cast<std::size_t>(peer.rank)] = arrived(peer, exchange, round);
  }
  exchange.consume(k, by_rank);
  if (node_) node_->release(round);
  return {};
}

Status ProcessCommunicator::check_same_operation(const Exchange& exchange, const Peer& peer, std::uint64_t round) const {
  if (peer.local < 0 || node_->published_signature(peer.local, round) == exchange.signature()) return {};
  return {Code::internal, name_of(peer.rank) + " issues " + node_->published_what(peer.local, round) + " where " +
                              name_of(group_.self.v) + " issues " + exchange.what() +
                              ", or the same with other sizes: the ranks' programs went apart"};
}

// Shared-memory slots keep their bytes until they are read; what MPI sends is read from the caller's buffers.
Status ProcessCommunicator::drain_sends(const Exchange& exchange) {
  if (!remote_) return {};
  return wait(exchange.what(), [&](const Peer& peer) { return peer.local < 0 && !remote_->has_sent(peer.remote); });
}

// ---- waiting ----

bool ProcessCommunicator::any(const Awaited& awaited) const {
  for (const Peer& peer : peers_)
    if (awaited(peer)) return true;
  return false;
}

Status ProcessCommunicator::wait(const char* what, const Awaited& awaited) {
  if (!any(awaited)) return {};
  const Clock::time_point begin = Clock::now();
  Clock::time_point next_check = begin + kCheckInterval;
  while (true) {
    if (remote_) STRATA_RETURN_IF_ERROR(remote_->poll(what));
    if (!any(awaited)) return {};
    const Clock::time_point now = Clock::now();
    if (now >= next_check) {
      STRATA_RETURN_IF_ERROR(check_peers(what, awaited, now - begin));
      next_check = now + kCheckInterval;
    }
    if (now - begin < kSpin)
      relax();
    else
      sleep(awaited, !remote_ ? std::chrono::nanoseconds(kCheckInterval) : now - begin < kIdleAfter ? kPoll : kIdlePoll);
  }
}

void ProcessCommunicator::sleep(const Awaited& awaited, std::chrono::nanoseconds at_most) {
  if (!node_) {
    std::this_thread::sleep_for(at_most);
    return;
  }
  const std::uint32_t ticket = node_->prepare_to_sleep();
  if (any(awaited))
    node_->sleep(ticket, at_most);
  else
    node_->stay_awake();
}

Status ProcessCommunicator::check_aborted(const char* what) const {
  const auto lost = [&](int rank, const std::string& reason) {
    const std::string who = rank == group_.self.v ? "this rank" : name_of(rank);
    return Status(Code::peer_lost, std::string(what) + ": " + who + " gave up: " + reason);
  };
  if (abort_board_)
    if (const auto abort = abort_board_->aborted())
      return lost(rank_of_local_[static_cast<std::size_t>(abort->rank)], abort->reason);
  if (abort_line_)
    if (const auto abort = abort_line_->poll()) return lost(abort->rank, abort->reason);
  return {};
}

// A peer's last message may have come between the look at its bytes and the look at its process: it is looked for once more.
Status ProcessCommunicator::check_peers(const char* what, const Awaited& awaited, Clock::duration waited) const {
  STRATA_RETURN_IF_ERROR(check_aborted(what));
  std::string missing;
  for (const Peer& peer : peers_) {
    if (!awaited(peer)) continue;
    const NodeChannel::PeerState state = peer.local >= 0 ? node_->state(peer.local) : NodeChannel::PeerState::alive;
    if (!awaited(peer)) continue;
    if (state == NodeChannel::PeerState::dead) return {Code::peer_lost, name_of(peer.rank) + " died during " + what};
    if (state == NodeChannel::PeerState::left)
      return {Code::peer_lost, name_of(peer.rank) + " left the group and will not take part in " + what};
    missing += (missing.empty() ? "" : ", ") + name_of(peer.rank);
  }
  if (missing.empty() || waited < group_.timeout) return {};
  return {Code::peer_lost, missing + " did not arrive in " + what + " within " + seconds_text(group_.timeout) +
                               ": stopped, hung, or behind a broken network"};
}

std::string ProcessCommunicator::name_of(int rank) const {
  const Member& member = group_.members[static_cast<std::size_t>(rank)];
  const bool local = node_ && member.node == group_.members[static_cast<std::size_t>(group_.self.v)].node;
  const int pid = local ? node_->pid(member.local) : 0;
  return "rank " + std::to_string(rank) + " (" + (pid > 0 ? "pid " + std::to_string(pid) + " " : std::string()) + "on host " +
         member.host + ")";
}

// Told to the others too, unless one of them told us: those that wait for this rank then learn the cause and not its
// consequence.
Status ProcessCommunicator::fail(Status status) {
  failure_ = std::move(status);
  if (check_aborted("").ok())
    abort(failure_.message());
  else if (group_.on_failure)
    group_.on_failure();
  return failure_;
}

void ProcessCommunicator::abort(const std::string& reason) {
  if (group_.on_failure) group_.on_failure();
  if (abort_board_) abort_board_->abort(reason);
  if (abort_line_) abort_line_->abort(reason);
}

// ---- more of the same group ----

Result<std::shared_ptr<NodeChannel>> ProcessCommunicator::duplicate_node() {
  return open_node_channels(group_.members, group_.self, node_->shape().slot_bytes, kRoundsInFlight,
                            [this](std::span<const std::byte> mine) { return gather_all(mine, "duplicate"); });
}

Result<std::unique_ptr<Communicator>> ProcessCommunicator::duplicate() {
  STRATA_RETURN_IF_ERROR(barrier("duplicate"));  // MPI's own duplication has no timeout: enter it only together
  std::shared_ptr<NodeChannel> node;
  if (node_) {
    STRATA_ASSIGN_OR_RETURN(node, duplicate_node());
  }
  std::unique_ptr<MpiPeers> remote;
  if (remote_) {
    STRATA_ASSIGN_OR_RETURN(remote, remote_->duplicate());
  }
  auto copy = std::make_unique<ProcessCommunicator>(group_, std::move(node), std::move(remote), abort_line_);
  copy->abort_board_ = abort_board_;
  return std::unique_ptr<Communicator>(std::move(copy));
}

}  // namespace strata
