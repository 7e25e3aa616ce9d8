// The one door to block I/O. Bodies: io_uring (uring_engine), pread/pwrite threads (thread_engine), cuFile for a GPU's memory
// (cufile_engine), and a fault-injecting wrapper for tests. An engine is used by one thread at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "nvme/latency.h"
#include "runtime/status.h"

namespace strata {

// A file that requests go to, and what engines have learned about it. Outlives every run() of such a request. A call that was
// given up may still begin or end in a thread of its own; it shares the ownership of a file that a shared_ptr owns.
struct IoFile : std::enable_shared_from_this<IoFile> {
  int fd = -1;
  std::string path;
  bool blocks_submission = false;  // io_uring would wait for the device when it only submits, and see no timeout meanwhile
  LatencyHistogram reads, writes;  // of every transfer that moved something
  std::atomic<bool> hangs{false};  // a transfer was given up that may still be in flight
};

struct IoRequest {
  enum class Kind { read, write } kind = Kind::read;
  IoFile* file = nullptr;
  std::byte* data = nullptr;  // aligned as the file demands; in host memory, or in a GPU's for cuFile
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;  // "io_uring", "threads", "cuFile"

  // What later requests will mostly use: the kernel is told once instead of with every request. Only a matter of speed: other
  // files and memory work too, as does everything where the kernel refuses (a limit of locked memory, `ulimit -l`, counts the
  // buffers of every engine). Both replace what was registered before and must outlive the engine, or the next call.
  virtual void register_files(std::span<IoFile* const> /*files*/) {}
  virtual void register_buffers(std::span<const std::span<std::byte>> /*buffers*/) {}

  // Runs all requests, in any order, at most queue_depth at a time on each file; returns when every one is complete. Every
  // completion's result is checked; a short transfer is continued; the first failure is returned with path, offset, size and
  // errno after all requests in flight have ended (their buffers are then no longer used).
  // The one exception: transfers of which nothing is heard for options.timeout and that cannot be cancelled. The error then
  // says that their buffers must not be reused, their files are marked `hangs`, and every later call returns the same error.
  virtual Status run(std::span<const IoRequest> requests) = 0;
};

struct IoEngineOptions {
  enum class Kind { automatic, io_uring, threads } kind = Kind::automatic;
  unsigned queue_depth = 16;                       // of each file
  std::size_t block_bytes = std::size_t{1} << 20;  // requests are cut to at most this
  std::chrono::milliseconds timeout{60'000};       // without any completion: then a device counts as hanging
};
// automatic: io_uring where the kernel allows it, else threads; why_fallback (may be null) then receives the reason, which
// the caller says aloud.
Result<std::unique_ptr<IoEngine>> make_io_engine(const IoEngineOptions& options, std::string* why_fallback);

}  // namespace strata
