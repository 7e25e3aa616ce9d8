// What this process runs on and how it was built.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/status.h"

namespace strata {

struct Machine {
  std::string cpu;                    // "AMD EPYC", "unknown" where the system does not say
  int cores = 1;                      // that this process may use (affinity)
  std::string isa;                    // of the host kernels: generic, avx2, avx512
  std::uint64_t memory_bytes = 0;     // 0: unknown
  std::uint64_t available_bytes = 0;  // that could be allocated now; 0: unknown
  std::string system;                 // "Linux 6.1.0 x86_64"
  std::string compiler, commit, preset, build_type;
  std::string backend = "host";        // that was measured
  std::string gpu;                     // its name, where the backend is cuda
  std::uint64_t gpu_memory_bytes = 0;  // in all
};

// Throws StatusError when the environment names an instruction set that is not available.
Machine describe_machine();

// First line of `path` without its end, or "" when it cannot be read.
std::string first_line(const std::string& path);

// Error (out_of_budget) when `bytes` are not available now, in the machine or in the control group that this process is in.
// Where the system does not say, ok.
Status require_memory(std::uint64_t bytes, const std::string& what);

}  // namespace strata
