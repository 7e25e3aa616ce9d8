#include "parallel/mpi_peers.h"

#include <algorithm>

namespace strata {

namespace {

constexpr int kDataTag = 1;
constexpr int kAbortTag = 2;

}  // namespace

Status mpi_status(int code, const char* call) {
  if (code == MPI_SUCCESS) return {};
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {Code::peer_lost, std::string(call) + ": " + std::string(text, static_cast<std::size_t>(length))};
}

Result<MPI_Comm> duplicate_comm(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  STRATA_RETURN_IF_ERROR(mpi_status(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup"));
  STRATA_RETURN_IF_ERROR(mpi_status(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
  return copy;
}

MpiAbortLine::MpiAbortLine(MPI_Comm comm, Rank self, std::vector<int> peers)
    : comm_(comm), self_(self), peers_(std::move(peers)) {}

void MpiAbortLine::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (sent_ != nullptr) return;
  sent_ = new std::string(reason.substr(0, 4000));
  if (!known_) known_ = Abort{self_.v, *sent_};
  for (int peer : peers_) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (MPI_Isend(sent_->data(), static_cast<int>(sent_->size()), MPI_BYTE, peer, kAbortTag, comm_, &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
}

std::optional<MpiAbortLine::Abort> MpiAbortLine::poll() {
  const std::lock_guard lock(mutex_);
  if (known_) return known_;
  int found = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  if (MPI_Improbe(MPI_ANY_SOURCE, kAbortTag, comm_, &found, &message, &status) != MPI_SUCCESS || found == 0)
    return std::nullopt;
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  std::string reason(static_cast<std::size_t>(std::max(0, bytes)), '\0');
  if (MPI_Mrecv(reason.data(), bytes, MPI_BYTE, &message, &status) != MPI_SUCCESS) return std::nullopt;
  known_ = Abort{status.MPI_SOURCE, std::move(reason)};
  return known_;
}

MpiPeers::MpiPeers(MPI_Comm comm, std::vector<int> peers, std::size_t chunk_bytes, int depth)
    : comm_(comm), peers_(std::move(peers)), chunk_bytes_(chunk_bytes), depth_(depth) {
  const std::size_t receives = peers_.size() * static_cast<std::size_t>(depth);
  requests_.assign(2 * receives, MPI_REQUEST_NULL);
  expected_.resize(receives);
  buffer_.resize(receives * chunk_bytes);
  completed_.resize(2 * receives);
  statuses_.resize(2 * receives);
}

// Only after a failure is anything still in flight. MPI may go on writing into the receive buffers and reading what was being
// sent; the buffers are then left to the process, which is about to end.
MpiPeers::~MpiPeers() {
  bool in_flight = false;
  for (const MPI_Request& request : requests_) in_flight = in_flight || request != MPI_REQUEST_NULL;
  if (in_flight) {
    [[maybe_unused]] auto* const kept_buffer = new std::vector<std::byte>(std::move(buffer_));
    [[maybe_unused]] auto* const kept_requests = new std::vector<MPI_Request>(std::move(requests_));
  }
}

bool MpiPeers::can_post(std::size_t peer, std::uint64_t round) const {
  return requests_[expected_.size() + index(peer, round)] == MPI_REQUEST_NULL;
}

Status MpiPeers::post(Exchange& exchange, std::int64_t exchange_round, std::uint64_t round) {
  const bool always = exchange.notifies_without_bytes();
  for (std::size_t p = 0; p < peers_.size(); ++p) {
    const std::size_t i = index(p, round);
    expected_[i] = exchange.incoming_bytes(peers_[p], exchange_round);
    // Room for any chunk, so that a peer that issues another operation shows as a wrong length and not as an overflow.
    if (always || expected_[i] > 0)
      STRATA_RETURN_IF_ERROR(mpi_status(MPI_Irecv(buffer_.data() + i * chunk_bytes_, static_cast<int>(chunk_bytes_), MPI_BYTE,
                                                  peers_[p], kDataTag, comm_, &requests_[i]),
                                        "MPI_Irecv"));
    const std::span<const std::byte> bytes = exchange.outgoing(peers_[p], exchange_round);
    if (always || !bytes.empty())
      STRATA_RETURN_IF_ERROR(mpi_status(MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, peers_[p], kDataTag,
                                                  comm_, &requests_[expected_.size() + i]),
                                        "MPI_Isend"));
  }
  return {};
}

bool MpiPeers::has_arrived(std::size_t peer, std::uint64_t round) const {
  return requests_[index(peer, round)] == MPI_REQUEST_NULL;
}

const std::byte* MpiPeers::received(std::size_t peer, std::uint64_t round) const {
  return buffer_.data() + index(peer, round) * chunk_bytes_;
}

bool MpiPeers::has_sent(std::size_t peer) const {
  for (std::size_t i = expected_.size() + peer; i < requests_.size(); i += peers_.size())
    if (requests_[i] != MPI_REQUEST_NULL) return false;
  return true;
}

Status MpiPeers::check_length(std::size_t receive, const MPI_Status& status, const char* what) const {
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (static_cast<std::size_t>(bytes) == expected_[receive]) return {};
  return {Code::internal, "rank " + std::to_string(peers_[receive % peers_.size()]) + " sent " + std::to_string(bytes) +
                              " bytes where " + what + " expects " + std::to_string(expected_[receive]) +
                              ": the ranks issue different operations"};
}

Status MpiPeers::poll(const char* what) {
  int count = 0;
  const int code =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, completed_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return mpi_status(code, "MPI_Testsome").with_context(what);
  if (count == MPI_UNDEFINED) {  // nothing in flight by MPI's count; bytes of sends that are complete may still wait to leave
    int found = 0;
    return mpi_status(MPI_Iprobe(MPI_ANY_SOURCE, kAbortTag, comm_, &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
  }
  for (int c = 0; c < count; ++c) {
    const MPI_Status& status = statuses_[static_cast<std::size_t>(c)];
    const auto request = static_cast<std::size_t>(completed_[static_cast<std::size_t>(c)]);
    const int peer = peers_[request % peers_.size()];
    if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS)
      return mpi_status(status.MPI_ERROR, what).with_context("exchange with rank " + std::to_string(peer));
    if (request < expected_.size()) STRATA_RETURN_IF_ERROR(check_length(request, status, what));
  }
  return {};
}

Result<std::unique_ptr<MpiPeers>> MpiPeers::duplicate() const {
  STRATA_ASSIGN_OR_RETURN(const MPI_Comm comm, duplicate_comm(comm_));
  return std::make_unique<MpiPeers>(comm, peers_, chunk_bytes_, depth_);
}

}  // namespace strata
