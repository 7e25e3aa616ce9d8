// How a group of GPUs comes about: what the ranks agree on through their host communicator, and first operations that make NCCL
// build its connections while nothing else is under way.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "parallel/nccl_api.h"
#include "parallel/nccl_communicator.h"

namespace strata {

// Collective, on the caller. Rank 0 makes the id; its error is everybody's.
Result<NcclId> agree_on_nccl_id(Communicator& inner, NcclApi& nccl);

// Collective, on the caller. The ranks' names for messages, by rank. Error: invalid_argument where the options differ in what
// must be the same.
Result<std::vector<std::string>> agree_on_nccl_options(Communicator& inner, const NcclOptions& options);

using NcclStep = std::function<Status(NcclComm&, GpuQueue&)>;
// Runs one step as an operation of the communicator.
using NcclRunStep = std::function<Status(GpuQueue&, const NcclStep&)>;

// Collective, on the caller, which it blocks. NCCL connects two GPUs when they first exchange something, and a collective when
// one of its size is first asked for; the issuing threads then wait for each other. Two communicators whose first operations
// come in different orders on two ranks would wait without end.
Status connect_gpus(GpuDriver& gpu, Rank rank, WorldSize size, std::size_t bytes, const NcclRunStep& run);

}  // namespace strata
