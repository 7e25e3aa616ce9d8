// Ranks that go on or give up together.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/status.h"

namespace strata {

// Collective: ok when every rank is; else the same error on every rank (Status::is_on_every_rank), that of the first that
// failed, with "rank N: " before it, or "every rank: " where all failed alike (nothing for a single rank or a wrong
// configuration). `part` of every rank comes back in `parts`, by rank.
Status agree(Communicator& comm, const Status& mine, const char* what, const std::string& part = "",
             std::vector<std::string>* parts = nullptr);

// Collective: rank 0 runs `work` on a thread of its own while the others wait for it, however long it takes: the group's
// timeout is for ranks that are silent. Then as agree(). `work` does not communicate.
Status agree_on_leader(Communicator& comm, const std::function<Status()>& work, const char* what);

}  // namespace strata
