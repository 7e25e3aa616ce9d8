// `strata bench nvme --ranks N`: what N processes read and write together, with and without turns (nvme.exclusive).
#pragma once

#include "launcher/bench.h"
#include "runtime/status.h"

namespace strata {

// Prints its own report. The calling process has no other threads.
Status bench_turns(const BenchOptions& options);

}  // namespace strata
