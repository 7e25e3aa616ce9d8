// Ranks that go on or give up together.
#pragma once

#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/status.h"

namespace strata {

// Collective: ok when every rank is; else the same error on every rank, that of the first that failed, with "rank N: " before
// it, or "every rank: " where all failed alike (nothing for a single rank or a wrong configuration). `part` of every rank comes
// back in `parts`, by rank.
Status agree(Communicator& comm, const Status& mine, const char* what, const std::string& part = "",
             std::vector<std::string>* parts = nullptr);

// Whether `status` came out of agree() or is known to be the same on every rank, so that one of them speaks for all.
bool is_common(const Status& status);

}  // namespace strata
