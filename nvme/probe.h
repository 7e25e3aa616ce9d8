// How fast each of several paths is, so that each gets the share of the bytes that keeps all of them busy equally long.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

// Bytes per second.
struct PathRate {
  double read = 0, write = 0;
};

// Writes and reads a scratch file of 32 MiB, or of `most` bytes where that is less (a folder need not have room for more than
// the state), at each of `paths`, one after the other, for at most about 1 s each. A path has the
// name of the state file that will be there, so that a probe which is killed leaves nothing that the next run does not take
// over.
Result<std::vector<PathRate>> probe_paths(std::span<const std::string> paths, std::size_t most, const IoEngineOptions& options);

// A byte lies on one path and is read and written there once a step. The slowest path then takes least when shares are in
// proportion to 1 / (1 / read + 1 / write). Pure.
std::vector<double> placement_weights(std::span<const PathRate> rates);

// placement_weights() of probe_paths(), and a note that says them. One path is not probed, nor where there are no bytes.
Result<std::vector<double>> measured_weights(std::span<const std::string> paths, std::size_t most,
                                             const IoEngineOptions& options, std::vector<std::string>* notes);

}  // namespace strata
