#include "nvme/uring_engine.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <vector>

#include "nvme/ring.h"
#include "nvme/transfer.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kMaxPauses = 10000;               // of 1 ms: then a busy kernel counts as a failed one
constexpr milliseconds kCancelWait{5000};       // for transfers that were cancelled, or that a failed ring has accepted
constexpr std::size_t kBufferBytes = 1U << 30;  // the largest that the kernel registers

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(const IoEngineOptions& options) : options_(options) {}

  Status open() {
    if (const int error = ring_.open(options_.queue_depth); error != 0) return {Code::unsupported, why_no_ring(error)};
    if (!ring_.has_what_we_need()) return {Code::unsupported, "io_uring of this kernel is too old (needs Linux 5.11)"};
    return {};
  }

  const char* name() const override { return "io_uring"; }
  void register_files(std::span<IoFile* const> files) override {
    files_.assign(files.begin(), files.end());
    ring_.close();
  }
  void register_buffers(std::span<const std::span<std::byte>> buffers) override;
  Status run(std::span<const IoRequest> requests) override;

 private:
  Status open_for(const TransferQueue& queue, const std::string& path);
  int index_of(const IoFile* file) const;
  int index_of(std::span<const std::byte> data) const;
  void prepare(TransferQueue& queue);
  bool reap(TransferQueue& queue);  // true: the device is busy
  Status cancel(TransferQueue& queue);
  Status abandon(TransferQueue& queue, int error, const std::string& path);
  Status drain(TransferQueue& queue, unsigned never_sent);

  IoEngineOptions options_;
  Ring ring_;
  std::vector<IoFile*> files_;
  std::vector<std::span<std::byte>> buffers_;  // none larger than kBufferBytes
  bool fixed_files_ = false, fixed_buffers_ = false;
  Status lost_;
};

void UringEngine::register_buffers(std::span<const std::span<std::byte>> buffers) {
  buffers_.clear();
  for (std::span<std::byte> rest : buffers) {
    for (; !rest.empty(); rest = rest.subspan(buffers_.back().size())) {
      buffers_.push_back(rest.first(std::min(rest.size(), kBufferBytes)));
    }
  }
  ring_.close();
}

// Registration belongs to a ring, and a ring to the thread that opened it.
Status UringEngine::open_for(const TransferQueue& queue, const std::string& path) {
  if (ring_.usable_here() && ring_.entries() >= queue.capacity()) return {};
  if (const int error = ring_.open(std::max(options_.queue_depth, queue.capacity())); error != 0) {
    return {Code::io_error, path + ": " + why_no_ring(error)};
  }
  fixed_files_ = ring_.register_files(files_);
  fixed_buffers_ = ring_.register_buffers(buffers_);
  return {};
}

// -1: not registered.
int UringEngine::index_of(const IoFile* file) const {
  const auto found = std::find(files_.begin(), files_.end(), file);
  return fixed_files_ && found != files_.end() ? static_cast<int>(found - files_.begin()) : -1;
}

int UringEngine::index_of(std::span<const std::byte> data) const {
  const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](std::span<const std::byte> buffer) {
    return data.data() >= buffer.data() && data.data() + data.size() <= buffer.data() + buffer.size();
  });
  return fixed_buffers_ && found != buffers_.end() ? static_cast<int>(found - buffers_.begin()) : -1;
}

void UringEngine::prepare(TransferQueue& queue) {
  // There is always a free entry: the ring has as many as the queue has transfers.
  while (Transfer* transfer = queue.next()) {
    ring_.prepare(*transfer, index_of(transfer->file), index_of({transfer->data, transfer->bytes}));
  }
}

bool UringEngine::reap(TransferQueue& queue) {
  bool busy = false;
  Ring::Completion completion;
  while (ring_.pop(&completion)) {
    if (completion.transfer != nullptr) busy |= queue.complete(completion.transfer, completion.result);
  }
  return busy;
}

// Waits for what the kernel has accepted, all but `never_sent` of what is in flight.
Status UringEngine::drain(TransferQueue& queue, unsigned never_sent) {
  const auto deadline = Clock::now() + std::min(kCancelWait, options_.timeout);
  while (queue.in_flight() > never_sent && Clock::now() < deadline) {
    if (const int error = ring_.wait(milliseconds(100)); error != 0 && error != ETIME && error != EINTR) TransferQueue::pause();
    (void)reap(queue);
  }
  if (queue.in_flight() <= never_sent) return queue.status();
  ring_.close();
  return lost_ = queue.give_up_in_flight();
}

// Nothing was heard for too long.
Status UringEngine::cancel(TransferQueue& queue) {
  queue.fail_overdue(options_.timeout);
  for (const Transfer* transfer : queue.transfers_in_flight()) ring_.prepare_cancel(*transfer);
  (void)ring_.submit_and_wait(milliseconds(100));
  return drain(queue, 0);
}

// The ring itself failed. What it has not accepted is dropped with it.
Status UringEngine::abandon(TransferQueue& queue, int error, const std::string& path) {
  queue.fail(Status::from_errno("submission to io_uring", path, error));
  Status status = drain(queue, ring_.unsubmitted());
  ring_.close();
  return status;
}

Status UringEngine::run(std::span<const IoRequest> requests) {
  if (!lost_.ok()) return lost_;
  TransferQueue queue(requests, options_.block_bytes, options_.queue_depth);
  if (queue.finished()) return {};
  const auto first = std::find_if(requests.begin(), requests.end(), [](const IoRequest& r) { return r.bytes > 0; });
  const std::string& path = first->file->path;
  STRATA_RETURN_IF_ERROR(open_for(queue, path));
  int pauses = 0;
  Silence silence(options_.timeout);
  while (!queue.finished()) {
    prepare(queue);
    const auto begin = Clock::now();
    const int error = ring_.submit_and_wait(silence.part());
    const unsigned before = queue.in_flight();
    bool busy = error == EAGAIN || error == EBUSY;
    pauses = busy ? pauses + 1 : 0;
    if ((error != 0 && error != EINTR && error != ETIME && !busy) || pauses > kMaxPauses) return abandon(queue, error, path);
    busy |= reap(queue);
    if (queue.in_flight() < before) {
      silence.heard();
    } else if (!busy && silence.add(Clock::now() - begin)) {
      return cancel(queue);
    }
    if (busy) TransferQueue::pause();
  }
  return queue.status();
}

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(const IoEngineOptions& options) {
  auto engine = std::make_unique<UringEngine>(options);
  STRATA_RETURN_IF_ERROR(engine->open());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace strata
