// A folder that appears whole or not at all: written as `<path>.tmp`, flushed, committed by one rename. One process creates and
// commits; others may write files into temporary_path() in between. Every Status names path and errno.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata {

// Creates `path` with its parents; every new name is flushed.
Status make_folders(const std::string& path);

// Creates `<path>.tmp`, removing what a crash may have left there. Parent folders are created.
Status begin_atomic_dir(const std::string& path);
std::string temporary_path(const std::string& path);  // "<path>.tmp"
// Flushes every file in `<path>.tmp` and the folder itself, renames it to `path`, flushes the parent.
// An existing `path` is replaced: it is moved aside to `<path>.old` first and removed after.
Status commit_atomic_dir(const std::string& path);
// Removes `<path>.tmp` with its contents; no error if it does not exist.
Status discard_atomic_dir(const std::string& path);

// Committed folders "step_<N>" inside `parent`, by N ascending. Leftovers of crashes are not listed, but a step_<N>.old whose
// replacement was not committed is: it is the committed one.
struct StepDir {
  std::int64_t step = 0;
  std::string path;
};
Result<std::vector<StepDir>> list_step_dirs(const std::string& parent);
// Removes the oldest committed step folders so that `keep` remain (0: keep all), and leftovers of crashed saves.
// The newest committed one is never removed.
Status prune_step_dirs(const std::string& parent, std::int64_t keep);

}  // namespace strata
