// The part of an engine that does not touch the kernel: cuts requests into blocks, holds what is in flight, and decides what
// each completion means. Shared by all engines, so that short transfers, interruptions and errors are treated alike.
#pragma once

#include <chrono>
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
  IoFile* file = nullptr;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
  int idle_attempts = 0;  // in a row without progress
  std::size_t lane = 0;   // of the queue, which has one for each file
  bool in_flight = false;
  std::chrono::steady_clock::time_point issued{};
};

// Adds up how long nothing was heard. The limit is waited for in parts, and none counts longer than it was to take: whoever was
// stopped meanwhile (SIGSTOP, a debugger, a machine asleep) does not take its own absence for the device's.
class Silence {
 public:
  explicit Silence(std::chrono::milliseconds limit);
  std::chrono::milliseconds part() const { return part_; }
  void heard() { waited_ = {}; }
  // After a wait of `time` in vain. True: the limit is reached.
  bool add(std::chrono::nanoseconds time);

 private:
  std::chrono::milliseconds limit_, part_;
  std::chrono::nanoseconds waited_{0};
};

// "nothing was heard for 60000 ms; ...", and what to do.
std::string describe_silence(std::chrono::milliseconds limit);

// Not thread-safe; must not outlive `requests`.
class TransferQueue {
 public:
  TransferQueue(std::span<const IoRequest> requests, std::size_t block_bytes, unsigned queue_depth);

  // The next transfer to issue: one of the file that has the fewest in flight, so that a slow file holds up nobody else's. Null
  // when every file with work left has queue_depth in flight, when all were issued, or after a failure. The address is valid
  // until complete().
  Transfer* next();
  // result: bytes transferred, or -errno. True: the device is busy and the caller should pause() before it issues more.
  bool complete(Transfer* transfer, std::int64_t result);
  // The same for a transfer that nothing came of and no errno says why.
  void refuse(Transfer* transfer, const std::string& why);
  // Ends the queue with `status` unless it failed before. What is in flight must still be completed.
  void fail(Status status);
  // Fails because nothing was heard for `timeout`; the error names the transfer that was issued first.
  void fail_overdue(std::chrono::milliseconds timeout);
  std::vector<Transfer*> transfers_in_flight();
  // What is in flight will never be completed here: marks its files. The error that says so.
  Status give_up_in_flight();

  unsigned in_flight() const { return in_flight_; }
  // What in_flight() can reach.
  unsigned capacity() const { return static_cast<unsigned>(slots_.size()); }
  // Nothing is in flight and nothing will be issued.
  bool finished() const;
  // The first failure, else ok.
  const Status& status() const { return status_; }

  static void pause();

 private:
  // The requests of one file in their order.
  struct Lane {
    IoFile* file = nullptr;
    std::vector<const IoRequest*> requests{};
    std::size_t request = 0;   // the one that is being cut
    std::size_t position = 0;  // bytes of it that were issued
    unsigned held = 0;         // transfers in flight or to be issued again
    bool has_work() const { return request < requests.size(); }
  };
  Lane& lane_of(IoFile* file);
  bool retry(Transfer* transfer);
  void release(Transfer* transfer);

  std::vector<Lane> lanes_;
  std::size_t block_bytes_;
  unsigned queue_depth_;
  std::vector<Transfer> slots_;
  std::vector<Transfer*> free_;
  std::vector<Transfer*> again_;  // to be issued again, before new blocks
  unsigned in_flight_ = 0;
  Status status_;
};

// "read of 4096 bytes at offset 8192".
std::string describe(IoRequest::Kind kind, std::size_t bytes, std::uint64_t offset);

}  // namespace strata
