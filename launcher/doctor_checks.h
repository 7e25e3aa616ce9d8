// The examinations of `strata doctor`. None of them changes the machine; the one that needs a file removes it again.
#pragma once

#include <string>
#include <vector>

namespace strata {

enum class FindingState {
  present,
  absent  // a feature of Strata is lost or slower
};

struct Finding {
  std::string topic;  // "io_uring"
  FindingState state = FindingState::present;
  std::string found{};  // what was seen
  std::string costs{};  // absent: what the lack costs, and how it is mended
};

std::vector<Finding> examine_processor();  // CPU, instruction set, cores, memory, huge pages
std::vector<Finding> examine_gpus();
std::vector<Finding> examine_libraries();                                // oneDNN, MPI
std::vector<Finding> examine_io(const std::vector<std::string>& paths);  // io_uring, locked memory, direct I/O on each path

}  // namespace strata
