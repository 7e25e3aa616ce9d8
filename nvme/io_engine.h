// The one door to block I/O. Bodies: io_uring (uring_engine), pread/pwrite threads (thread_engine), and a fault-injecting
// wrapper for tests. An engine is used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/status.h"

namespace strata {

struct IoRequest {
  enum class Kind { read, write } kind = Kind::read;
  int fd = -1;
  std::byte* data = nullptr;  // aligned as the file demands
  std::size_t bytes = 0;
  std::uint64_t offset = 0;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;  // "io_uring", "threads"
  // Runs all requests, in any order, at most queue_depth at a time; returns when every one is complete. Every completion's
  // result is checked; a short transfer is continued; the first failure is returned with `path`, offset, size and errno
  // after all requests in flight have ended (their buffers are then no longer used). The one exception: a kernel that for 10 s
  // refuses to say what became of them. The error then says that their buffers must not be reused.
  virtual Status run(std::span<const IoRequest> requests, const std::string& path) = 0;
};

struct IoEngineOptions {
  enum class Kind { automatic, io_uring, threads } kind = Kind::automatic;
  unsigned queue_depth = 16;
  std::size_t block_bytes = std::size_t{1} << 20;  // requests are cut to at most this
};
// automatic: io_uring where the kernel allows it, else threads; why_fallback (may be null) then receives the reason, which
// the caller says aloud.
Result<std::unique_ptr<IoEngine>> make_io_engine(const IoEngineOptions& options, std::string* why_fallback);

}  // namespace strata
