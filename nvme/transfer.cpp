#include "nvme/transfer.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "nvme/format.h"

namespace strata {
namespace {

// A busy device is asked again after a pause of 1 ms, this often.
constexpr int kMaxIdleAttempts = 1000;
// The end of a file in the middle of a sector shows as the same short read again and again.
constexpr int kMaxStalls = 3;
constexpr std::size_t kMaxInFlight = 4096;  // on all files together
constexpr int kSilenceParts = 8;

}  // namespace

std::string describe(IoRequest::Kind kind, std::size_t bytes, std::uint64_t offset) {
  return std::string(kind == IoRequest::Kind::read ? "read" : "write") + " of " + std::to_string(bytes) + " bytes at offset " +
         std::to_string(offset);
}

std::string describe_silence(std::chrono::milliseconds limit) {
  return "nothing was heard for " + std::to_string(limit.count()) +
         " ms; the device hangs, or is slower than nvme.timeout allows: see the kernel's log";
}

Silence::Silence(std::chrono::milliseconds limit)
    : limit_(limit), part_(std::max(limit / kSilenceParts, std::chrono::milliseconds(1))) {}

bool Silence::add(std::chrono::nanoseconds time) {
  waited_ += std::min<std::chrono::nanoseconds>(time, part_);
  return waited_ >= limit_;
}

void TransferQueue::pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

TransferQueue::TransferQueue(std::span<const IoRequest> requests, std::size_t block_bytes, unsigned queue_depth)
    : block_bytes_(block_bytes), queue_depth_(queue_depth) {
  for (const IoRequest& request : requests) {
    if (request.bytes > 0) lane_of(request.file).requests.push_back(&request);
  }
  slots_.resize(std::min<std::size_t>(kMaxInFlight, lanes_.size() * queue_depth));
  for (Transfer& slot : slots_) free_.push_back(&slot);
}

TransferQueue::Lane& TransferQueue::lane_of(IoFile* file) {
  for (Lane& lane : lanes_) {
    if (lane.file == file) return lane;
  }
  return lanes_.emplace_back(Lane{.file = file});
}

Transfer* TransferQueue::next() {
  if (!status_.ok()) return nullptr;
  Transfer* transfer = nullptr;
  if (!again_.empty()) {
    transfer = again_.back();
    again_.pop_back();
  } else {
    Lane* idlest = nullptr;
    for (Lane& lane : lanes_) {
      if (lane.has_work() && lane.held < queue_depth_ && (idlest == nullptr || lane.held < idlest->held)) idlest = &lane;
    }
    if (idlest == nullptr || free_.empty()) return nullptr;
    transfer = free_.back();
    free_.pop_back();
    ++idlest->held;
    const IoRequest& request = *idlest->requests[idlest->request];
    const std::size_t at = idlest->position, bytes = std::min(block_bytes_, request.bytes - at);
    *transfer = {.kind = request.kind,
                 .file = request.file,
                 .data = request.data + at,
                 .bytes = bytes,
                 .offset = request.offset + at,
                 .lane = static_cast<std::size_t>(idlest - lanes_.data())};
    idlest->position += bytes;
    if (idlest->position == request.bytes) {
      ++idlest->request;
      idlest->position = 0;
    }
  }
  ++in_flight_;
  transfer->in_flight = true;
  transfer->issued = std::chrono::steady_clock::now();
  return transfer;
}

void TransferQueue::release(Transfer* transfer) {
  --lanes_[transfer->lane].held;
  free_.push_back(transfer);
}

bool TransferQueue::retry(Transfer* transfer) {
  again_.push_back(transfer);
  return ++transfer->idle_attempts <= kMaxIdleAttempts;
}

bool TransferQueue::complete(Transfer* transfer, std::int64_t result) {
  --in_flight_;
  transfer->in_flight = false;
  if (result > 0) {
    LatencyHistogram& histogram = transfer->kind == IoRequest::Kind::read ? transfer->file->reads : transfer->file->writes;
    histogram.add(std::chrono::steady_clock::now() - transfer->issued, static_cast<std::size_t>(result));
  }
  const std::string what = result == static_cast<std::int64_t>(transfer->bytes)
                               ? std::string()
                               : describe(transfer->kind, transfer->bytes, transfer->offset);
  if (what.empty()) {
    release(transfer);
    return false;
  }
  if (result < 0) {
    const bool transient = result == -EINTR || result == -EAGAIN;
    if (!transient || !retry(transfer)) fail(Status::from_errno(what, transfer->file->path, static_cast<int>(-result)));
    return result == -EAGAIN;
  }
  // Direct I/O must go on at a block boundary, so a part of a block is transferred again.
  const auto moved = static_cast<std::uint64_t>(result);
  const std::uint64_t reached = (transfer->offset + moved) / format::kBlockBytes * format::kBlockBytes;
  const std::size_t kept = reached > transfer->offset ? static_cast<std::size_t>(reached - transfer->offset) : 0;
  transfer->idle_attempts = kept > 0 ? 0 : transfer->idle_attempts + 1;
  if (moved == 0 || moved > transfer->bytes || transfer->idle_attempts > kMaxStalls) {
    fail({Code::io_error, what + ": " + transfer->file->path + ": only " + std::to_string(moved) + " bytes were transferred" +
                              (transfer->kind == IoRequest::Kind::read ? "; the file ends there" : "")});
    return false;
  }
  transfer->data += kept;
  transfer->bytes -= kept;
  transfer->offset += kept;
  again_.push_back(transfer);
  return false;
}

void TransferQueue::refuse(Transfer* transfer, const std::string& why) {
  --in_flight_;
  transfer->in_flight = false;
  fail(
      {Code::io_error, describe(transfer->kind, transfer->bytes, transfer->offset) + ": " + transfer->file->path + ": " + why});
}

void TransferQueue::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

std::vector<Transfer*> TransferQueue::transfers_in_flight() {
  std::vector<Transfer*> transfers;
  for (Transfer& slot : slots_) {
    if (slot.in_flight) transfers.push_back(&slot);
  }
  return transfers;
}

void TransferQueue::fail_overdue(std::chrono::milliseconds timeout) {
  const std::vector<Transfer*> late = transfers_in_flight();
  STRATA_CHECK(!late.empty(), "only what is in flight can be late");
  const Transfer& first =
      **std::min_element(late.begin(), late.end(), [](const Transfer* a, const Transfer* b) { return a->issued < b->issued; });
  fail({Code::io_error,
        describe(first.kind, first.bytes, first.offset) + ": " + first.file->path + ": " + describe_silence(timeout)});
}

Status TransferQueue::give_up_in_flight() {
  for (const Transfer* transfer : transfers_in_flight()) transfer->file->hangs = true;
  return status_.with_context("transfers may still be in flight and their buffers must not be reused");
}

bool TransferQueue::finished() const {
  if (in_flight_ > 0) return false;
  if (!status_.ok()) return true;
  if (!again_.empty()) return false;
  return std::none_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.has_work(); });
}

}  // namespace strata
