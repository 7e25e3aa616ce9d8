// Names of state files (docs/state_format.md), and the removal of those that killed runs left behind.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata {

// What a file holds. Activations: between a forward and its backward.
enum class StateFileKind { optimizer, parameters, gradients, activations };
// "<folder>/state_rank_00003.bin", "<folder>/parameters_rank_00003.bin" and so on.
std::string state_file_path(const std::string& folder, int rank, StateFileKind kind = StateFileKind::optimizer);

// Error invalid_config, which names both: two of `paths` are one file, because their folders are the same or lead to the same.
// What cannot be looked at is left to whoever opens it.
Status require_different_files(const std::vector<std::string>& paths);

// Removes the state files in `folder` of ranks >= world, which a run of `world` ranks does not take over: left there by a
// larger run that was killed; and the file of the turns there (turn_file.h). A file that a running process holds stays, as does
// one on a file system without locks. Returns the bytes freed. Everything that can be removed is removed before the first error
// is returned. Any process; one for each folder is enough.
Result<std::uint64_t> remove_stale_state_files(const std::string& folder, int world);

}  // namespace strata
