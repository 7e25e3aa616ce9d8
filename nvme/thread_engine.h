// IoEngine as a pool of threads that sleep while there is nothing to do, each blocked by one transfer at a time: over pread and
// pwrite, for kernels and containers without io_uring, and over what else moves blocks of files. The same semantics and files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "nvme/io_engine.h"

namespace strata {

struct Transfer;

// What moves a block. Used by many threads at once; lives as long as one of them may be in move().
class BlockMover {
 public:
  struct Moved {
    std::int64_t bytes = 0;  // or -errno
    std::string refusal;     // not empty: why nothing was moved, where no errno says it
  };
  virtual ~BlockMover() = default;
  virtual const char* name() const = 0;  // the engine's
  virtual Moved move(const Transfer& transfer) = 0;
};

// At most 64 transfers are in flight, whatever the queue depth. Threads are started when they are first useful; where there
// are none to be had the caller of run() moves blocks itself.
std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options, std::shared_ptr<BlockMover> mover);
std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options);  // by pread and pwrite

}  // namespace strata
