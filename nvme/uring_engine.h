// IoEngine over io_uring: one ring, batched submission, one system call for a batch of completions.
#pragma once

#include <memory>

#include "nvme/io_engine.h"

namespace strata {

// Error: unsupported, with the reason, where the kernel or a container forbids io_uring.
Result<std::unique_ptr<IoEngine>> make_uring_engine(const IoEngineOptions& options);

}  // namespace strata
