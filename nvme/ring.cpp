#include "nvme/ring.h"

#include <liburing.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <vector>

namespace strata {
namespace {

// Threads are told apart by a number that, unlike a thread id, is never used twice.
std::uint64_t this_thread_number() {
  static std::atomic<std::uint64_t> last{0};
  thread_local const std::uint64_t number = ++last;
  return number;
}

__kernel_timespec timespec_of(std::chrono::milliseconds time) {
  return {.tv_sec = time.count() / 1000, .tv_nsec = time.count() % 1000 * 1'000'000};
}

}  // namespace

std::string why_no_ring(int error) {
  std::string why = "io_uring is not available (io_uring_setup: " + std::generic_category().message(error) + ")";
  if (error == EPERM || error == EACCES)
    why += ": sysctl kernel.io_uring_disabled or the container's seccomp profile forbids it";
  if (error == ENOSYS) why += ": this kernel or sandbox does not have it";
  if (error == ENOMEM) why += ": the limit of locked memory (ulimit -l) is too low";
  return why;
}

int Ring::open(unsigned entries) {
  close();
  auto ring = std::make_unique<io_uring>();
  int error = -EINVAL;
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
  // Completions run in this thread when it waits for them, instead of interrupting it (Linux 6.1).
  error = ::io_uring_queue_init(entries, ring.get(), IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
#endif
  if (error == -EINVAL) error = ::io_uring_queue_init(entries, ring.get(), 0);
  if (error == 0) ring_.reset(ring.release());
  entries_ = entries;
  owner_ = this_thread_number();
  return -error;
}

void Ring::Exit::operator()(io_uring* ring) const {
  ::io_uring_queue_exit(ring);
  delete ring;
}

bool Ring::usable_here() const { return ring_ && owner_ == this_thread_number(); }

bool Ring::has_what_we_need() {
  if ((ring_->features & IORING_FEAT_EXT_ARG) == 0) return false;  // to wait for a limited time
  io_uring_probe* probe = ::io_uring_get_probe_ring(ring_.get());
  if (probe == nullptr) return false;
  bool has = true;
  for (const int operation :
       {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_ASYNC_CANCEL}) {
    has = has && io_uring_opcode_supported(probe, operation);
  }
  ::io_uring_free_probe(probe);
  return has;
}

bool Ring::register_files(std::span<IoFile* const> files) {
  std::vector<int> descriptors;
  for (const IoFile* file : files) descriptors.push_back(file->fd);
  return !files.empty() &&
         ::io_uring_register_files(ring_.get(), descriptors.data(), static_cast<unsigned>(descriptors.size())) == 0;
}

bool Ring::register_buffers(std::span<const std::span<std::byte>> buffers) {
  std::vector<iovec> vectors;
  for (const std::span<std::byte> buffer : buffers) vectors.push_back({buffer.data(), buffer.size()});
  return !buffers.empty() &&
         ::io_uring_register_buffers(ring_.get(), vectors.data(), static_cast<unsigned>(vectors.size())) == 0;
}

void Ring::prepare(Transfer& transfer, int file, int buffer) {
  io_uring_sqe* sqe = ::io_uring_get_sqe(ring_.get());
  STRATA_CHECK(sqe != nullptr, "the submission queue has an entry for every transfer");
  const auto bytes = static_cast<unsigned>(transfer.bytes);
  const int fd = file >= 0 ? file : transfer.file->fd;
  const bool read = transfer.kind == IoRequest::Kind::read;
  if (buffer >= 0 && read) {
    ::io_uring_prep_read_fixed(sqe, fd, transfer.data, bytes, transfer.offset, buffer);
  } else if (buffer >= 0) {
    ::io_uring_prep_write_fixed(sqe, fd, transfer.data, bytes, transfer.offset, buffer);
  } else if (read) {
    ::io_uring_prep_read(sqe, fd, transfer.data, bytes, transfer.offset);
  } else {
    ::io_uring_prep_write(sqe, fd, transfer.data, bytes, transfer.offset);
  }
  if (file >= 0) sqe->flags |= IOSQE_FIXED_FILE;
  if (transfer.file->blocks_submission) sqe->flags |= IOSQE_ASYNC;  // a thread of the kernel's waits then
  ::io_uring_sqe_set_data(sqe, &transfer);
}

void Ring::prepare_cancel(const Transfer& transfer) {
  io_uring_sqe* sqe = ::io_uring_get_sqe(ring_.get());
  STRATA_CHECK(sqe != nullptr, "the submission queue has an entry for every transfer");
  ::io_uring_prep_cancel(sqe, const_cast<Transfer*>(&transfer), 0);  // an address to look for
  ::io_uring_sqe_set_data(sqe, nullptr);
}

unsigned Ring::unsubmitted() const { return ::io_uring_sq_ready(ring_.get()); }

int Ring::submit_and_wait(std::chrono::milliseconds timeout) {
  __kernel_timespec limit = timespec_of(timeout);
  io_uring_cqe* cqe = nullptr;
  const int result = ::io_uring_submit_and_wait_timeout(ring_.get(), &cqe, 1, &limit, nullptr);
  return result < 0 ? -result : 0;
}

int Ring::wait(std::chrono::milliseconds timeout) {
  __kernel_timespec limit = timespec_of(timeout);
  io_uring_cqe* cqe = nullptr;
  return -::io_uring_wait_cqes(ring_.get(), &cqe, 1, &limit, nullptr);
}

bool Ring::pop(Completion* completion) {
  io_uring_cqe* cqe = nullptr;
  if (::io_uring_peek_cqe(ring_.get(), &cqe) != 0 || cqe == nullptr) return false;
  *completion = {static_cast<Transfer*>(::io_uring_cqe_get_data(cqe)), cqe->res};
  ::io_uring_cqe_seen(ring_.get(), cqe);
  return true;
}

}  // namespace strata
