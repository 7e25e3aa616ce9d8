// IoEngine over pread and pwrite: a pool of threads that sleep while there is nothing to do. For kernels and containers
// without io_uring; the same semantics and the same files.
#pragma once

#include <memory>

#include "nvme/io_engine.h"

namespace strata {

// At most 64 transfers are in flight, whatever the queue depth. The caller of run() takes part, so a queue depth of 1 has no
// threads. Threads are started when they are first useful.
std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options);

}  // namespace strata
