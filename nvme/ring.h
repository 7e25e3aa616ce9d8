// One io_uring. Internal to nvme/uring_engine.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "nvme/transfer.h"

struct io_uring;

namespace strata {

// What `error` of Ring::open() means and what to do.
std::string why_no_ring(int error);

// Used by the thread that opened it only: the kernel relies on that (SINGLE_ISSUER). Errors are errno, 0 is success.
class Ring {
 public:
  // Closes first. Transfers in flight go on after a close, which does not wait for them.
  int open(unsigned entries);
  void close() { ring_.reset(); }
  bool usable_here() const;
  unsigned entries() const { return entries_; }
  bool has_what_we_need();

  // False: the kernel does not want to; everything works without.
  bool register_files(std::span<IoFile* const> files);
  bool register_buffers(std::span<const std::span<std::byte>> buffers);

  // At most `entries` before a submission. file, buffer: of what was registered, or -1.
  void prepare(Transfer& transfer, int file, int buffer);
  void prepare_cancel(const Transfer& transfer);
  unsigned unsubmitted() const;

  // Submits what was prepared, all by one call, and waits until a completion is there, or for `timeout`, which is ETIME or no
  // error at all.
  int submit_and_wait(std::chrono::milliseconds timeout);
  // The same without a submission.
  int wait(std::chrono::milliseconds timeout);

  struct Completion {
    Transfer* transfer = nullptr;  // null: of a cancellation
    int result = 0;
  };
  bool pop(Completion* completion);

 private:
  struct Exit {
    void operator()(io_uring* ring) const;
  };
  std::unique_ptr<io_uring, Exit> ring_;  // null: closed
  unsigned entries_ = 0;
  std::uint64_t owner_ = 0;
};

}  // namespace strata
