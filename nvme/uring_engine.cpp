#include "nvme/uring_engine.h"

#include <liburing.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>

#include "nvme/transfer.h"

namespace strata {
namespace {

constexpr int kMaxPauses = 10000;  // of 1 ms: then a busy kernel counts as a failed one

std::string why_no_ring(int error) {
  std::string why = "io_uring is not available (io_uring_setup: " + std::generic_category().message(error) + ")";
  if (error == EPERM || error == EACCES)
    why += ": sysctl kernel.io_uring_disabled or the container's seccomp profile forbids it";
  if (error == ENOSYS) why += ": this kernel or sandbox does not have it";
  if (error == ENOMEM) why += ": the limit of locked memory (ulimit -l) is too low";
  return why;
}

// Threads are told apart by a number that, unlike a thread id, is never used twice.
std::uint64_t this_thread_number() {
  static std::atomic<std::uint64_t> last{0};
  thread_local const std::uint64_t number = ++last;
  return number;
}

class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { close(); }

  // 0 or errno. Only the calling thread may submit from now on (SINGLE_ISSUER lets the kernel rely on that).
  int open(unsigned entries) {
    close();
    int error = -EINVAL;
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
    // Completions run in this thread when it waits for them, instead of interrupting it (Linux 6.1).
    error = ::io_uring_queue_init(entries, &ring_, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
#endif
    if (error == -EINVAL) error = ::io_uring_queue_init(entries, &ring_, 0);
    open_ = error == 0;
    owner_ = this_thread_number();
    return -error;
  }
  void close() {
    if (open_) ::io_uring_queue_exit(&ring_);
    open_ = false;
  }
  bool usable_here() const { return open_ && owner_ == this_thread_number(); }
  bool has_read_and_write() {
    io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
    if (probe == nullptr) return false;
    const bool has = io_uring_opcode_supported(probe, IORING_OP_READ) && io_uring_opcode_supported(probe, IORING_OP_WRITE);
    ::io_uring_free_probe(probe);
    return has;
  }
  io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
  bool open_ = false;
  std::uint64_t owner_ = 0;
};

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(const IoEngineOptions& options) : options_(options) {}

  Status open() {
    if (const int error = ring_.open(options_.queue_depth); error != 0) return {Code::unsupported, why_no_ring(error)};
    if (!ring_.has_read_and_write()) return {Code::unsupported, "io_uring of this kernel is too old (needs Linux 5.6)"};
    return {};
  }

  const char* name() const override { return "io_uring"; }
  Status run(std::span<const IoRequest> requests, const std::string& path) override;

 private:
  void prepare(TransferQueue& queue);
  bool reap(TransferQueue& queue);  // true: the device is busy
  Status abandon(TransferQueue& queue, int error, const std::string& path);

  IoEngineOptions options_;
  Ring ring_;
};

void UringEngine::prepare(TransferQueue& queue) {
  // There is always a free entry: the ring has queue_depth of them and the queue issues no more.
  while (Transfer* transfer = queue.next()) {
    io_uring_sqe* sqe = ::io_uring_get_sqe(ring_.get());
    STRATA_CHECK(sqe != nullptr, "the submission queue holds queue_depth entries");
    const auto bytes = static_cast<unsigned>(transfer->bytes);
    if (transfer->kind == IoRequest::Kind::read) {
      ::io_uring_prep_read(sqe, transfer->fd, transfer->data, bytes, transfer->offset);
    } else {
      ::io_uring_prep_write(sqe, transfer->fd, transfer->data, bytes, transfer->offset);
    }
    ::io_uring_sqe_set_data(sqe, transfer);
  }
}

bool UringEngine::reap(TransferQueue& queue) {
  bool busy = false;
  io_uring_cqe* cqe = nullptr;
  while (::io_uring_peek_cqe(ring_.get(), &cqe) == 0 && cqe != nullptr) {
    auto* transfer = static_cast<Transfer*>(::io_uring_cqe_get_data(cqe));
    const int result = cqe->res;
    ::io_uring_cqe_seen(ring_.get(), cqe);
    busy |= queue.complete(transfer, result);
  }
  return busy;
}

// The ring itself failed: waits for what the kernel has accepted, then drops the ring with what it has not.
Status UringEngine::abandon(TransferQueue& queue, int error, const std::string& path) {
  queue.fail(Status::from_errno("submission to io_uring", path, error));
  int pauses = 0;
  while (queue.in_flight() > ::io_uring_sq_ready(ring_.get()) && pauses <= kMaxPauses) {
    io_uring_cqe* cqe = nullptr;
    const int waited = ::io_uring_wait_cqe(ring_.get(), &cqe);
    if (waited != 0 && waited != -EINTR) {  // then completions may still be seen to come
      ++pauses;
      TransferQueue::pause();
    }
    (void)reap(queue);
  }
  const bool lost = queue.in_flight() > ::io_uring_sq_ready(ring_.get());
  ring_.close();
  return lost ? queue.status().with_context("transfers may still be in flight and their buffers must not be reused")
              : queue.status();
}

Status UringEngine::run(std::span<const IoRequest> requests, const std::string& path) {
  if (!ring_.usable_here()) {
    if (const int error = ring_.open(options_.queue_depth); error != 0)
      return {Code::io_error, path + ": " + why_no_ring(error)};
  }
  TransferQueue queue(requests, options_.block_bytes, options_.queue_depth, path);
  int pauses = 0;
  while (!queue.finished()) {
    prepare(queue);
    const int submitted = ::io_uring_submit_and_wait(ring_.get(), 1);
    const bool busy = submitted == -EAGAIN || submitted == -EBUSY;
    pauses = busy ? pauses + 1 : 0;
    if ((submitted < 0 && submitted != -EINTR && !busy) || pauses > kMaxPauses) {
      return abandon(queue, -submitted, path);
    }
    if (reap(queue) || busy) TransferQueue::pause();
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
