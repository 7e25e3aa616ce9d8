// The part of an engine that does not touch the kernel: cuts requests into blocks, holds what is in flight, and decides what
// each completion means. Shared by all engines, so that short transfers, interruptions and errors are treated alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

// One read or write to issue. `data`, `bytes` and `offset` are what is left of a block.
struct Transfer {
  IoRequest::Kind kind = IoRequest::Kind::read;
  int fd = -1;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
  int idle_attempts = 0;  // in a row without progress
};

// Not thread-safe; must not outlive `requests`.
class TransferQueue {
 public:
  TransferQueue(std::span<const IoRequest> requests, std::size_t block_bytes, unsigned queue_depth, std::string path);

  // The next transfer to issue; null when queue_depth are in flight, when all were issued, or after a failure. The address is
  // valid until complete().
  Transfer* next();
  // result: bytes transferred, or -errno. True: the device is busy and the caller should pause() before it issues more.
  bool complete(Transfer* transfer, std::int64_t result);
  // Ends the queue with `status` unless it failed before. What is in flight must still be completed.
  void fail(Status status);

  unsigned in_flight() const { return in_flight_; }
  // Nothing is in flight and nothing will be issued.
  bool finished() const;
  // The first failure, else ok.
  const Status& status() const { return status_; }

  static void pause();

 private:
  bool retry(Transfer* transfer);

  std::span<const IoRequest> requests_;
  std::size_t block_bytes_;
  std::string path_;
  std::size_t request_ = 0;   // the request that is being cut
  std::size_t position_ = 0;  // bytes of it that were issued
  std::vector<Transfer> slots_;
  std::vector<Transfer*> free_;
  std::vector<Transfer*> again_;  // to be issued again, before new blocks
  unsigned in_flight_ = 0;
  Status status_;
};

// "read of 4096 bytes at offset 8192".
std::string describe(IoRequest::Kind kind, std::size_t bytes, std::uint64_t offset);

}  // namespace strata
