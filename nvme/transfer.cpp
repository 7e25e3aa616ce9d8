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

}  // namespace

std::string describe(IoRequest::Kind kind, std::size_t bytes, std::uint64_t offset) {
  return std::string(kind == IoRequest::Kind::read ? "read" : "write") + " of " + std::to_string(bytes) + " bytes at offset " +
         std::to_string(offset);
}

void TransferQueue::pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

TransferQueue::TransferQueue(std::span<const IoRequest> requests, std::size_t block_bytes, unsigned queue_depth,
                             std::string path)
    : requests_(requests), block_bytes_(block_bytes), path_(std::move(path)), slots_(queue_depth) {
  for (Transfer& slot : slots_) free_.push_back(&slot);
}

Transfer* TransferQueue::next() {
  if (!status_.ok() || (again_.empty() && free_.empty())) return nullptr;
  Transfer* transfer = nullptr;
  if (!again_.empty()) {
    transfer = again_.back();
    again_.pop_back();
  } else {
    while (request_ < requests_.size() && position_ == requests_[request_].bytes) {
      ++request_;
      position_ = 0;
    }
    if (request_ == requests_.size()) return nullptr;
    const IoRequest& request = requests_[request_];
    transfer = free_.back();
    free_.pop_back();
    const std::size_t bytes = std::min(block_bytes_, request.bytes - position_);
    *transfer = {request.kind, request.fd, request.data + position_, bytes, request.offset + position_, 0};
    position_ += bytes;
  }
  ++in_flight_;
  return transfer;
}

bool TransferQueue::retry(Transfer* transfer) {
  again_.push_back(transfer);
  return ++transfer->idle_attempts <= kMaxIdleAttempts;
}

bool TransferQueue::complete(Transfer* transfer, std::int64_t result) {
  --in_flight_;
  const std::string what = result == static_cast<std::int64_t>(transfer->bytes)
                               ? std::string()
                               : describe(transfer->kind, transfer->bytes, transfer->offset);
  if (what.empty()) {
    free_.push_back(transfer);
    return false;
  }
  if (result < 0) {
    const bool transient = result == -EINTR || result == -EAGAIN;
    if (!transient || !retry(transfer)) fail(Status::from_errno(what, path_, static_cast<int>(-result)));
    return result == -EAGAIN;
  }
  // Direct I/O must go on at a block boundary, so a part of a block is transferred again.
  const auto moved = static_cast<std::uint64_t>(result);
  const std::uint64_t reached = (transfer->offset + moved) / format::kBlockBytes * format::kBlockBytes;
  const std::size_t kept = reached > transfer->offset ? static_cast<std::size_t>(reached - transfer->offset) : 0;
  transfer->idle_attempts = kept > 0 ? 0 : transfer->idle_attempts + 1;
  if (moved == 0 || moved > transfer->bytes || transfer->idle_attempts > kMaxStalls) {
    fail({Code::io_error, what + ": " + path_ + ": only " + std::to_string(moved) + " bytes were transferred" +
                              (transfer->kind == IoRequest::Kind::read ? "; the file ends there" : "")});
    return false;
  }
  transfer->data += kept;
  transfer->bytes -= kept;
  transfer->offset += kept;
  again_.push_back(transfer);
  return false;
}

void TransferQueue::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

bool TransferQueue::finished() const {
  if (in_flight_ > 0) return false;
  if (!status_.ok()) return true;
  if (!again_.empty()) return false;
  for (std::size_t r = request_; r < requests_.size(); ++r) {
    if (requests_[r].bytes > (r == request_ ? position_ : 0)) return false;
  }
  return true;
}

}  // namespace strata
