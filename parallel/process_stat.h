// Whether a process of this host is alive.
#pragma once

#include <cstdint>
#include <optional>

namespace strata {

struct ProcessStat {
  char state = '?';              // as in /proc/<pid>/stat: 'Z' and 'X' are dead
  std::uint64_t start_time = 0;  // clock ticks after boot: tells a process from a later one with the same number
};
// Nothing when the process does not exist or /proc does not show it.
std::optional<ProcessStat> read_process(int pid);

// start_time: what read_process() said when the process was known to be alive; 0: unknown.
bool process_is_dead(int pid, std::uint64_t start_time);

}  // namespace strata
