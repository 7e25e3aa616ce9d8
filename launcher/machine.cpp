#include "launcher/machine.h"

#include <sys/utsname.h>

#include <fstream>

#include "runtime/arena.h"
#include "runtime/cores.h"
#include "runtime/kernels/isa.h"
#include "strata_build_info.h"
#include "trainer/environment.h"

namespace strata {
namespace {

// The value of the first line "key : value" of a file of /proc.
std::string field(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (line.compare(0, key.size(), key) != 0 || colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::uint64_t kibibytes(const std::string& key) {
  const std::string value = field("/proc/meminfo", key);
  return value.empty() ? 0 : std::strtoull(value.c_str(), nullptr, 10) * 1024;
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

}  // namespace

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

Machine describe_machine() {
  Machine m;
  const std::string cpu = field("/proc/cpuinfo", "model name");
  m.cpu = cpu.empty() ? std::string("unknown") : cpu;
  m.cores = usable_cores();
  m.isa = kernels::to_string(kernels::active_isa());
  m.memory_bytes = kibibytes("MemTotal");
  m.available_bytes = kibibytes("MemAvailable");
  utsname names{};
  if (uname(&names) == 0) m.system = std::string(names.sysname) + ' ' + names.release + ' ' + names.machine;
  m.compiler = compiler();
  m.commit = std::string(STRATA_COMMIT);
  m.preset = std::string(STRATA_PRESET);
  m.build_type = std::string(STRATA_BUILD_TYPE);
  return m;
}

Status require_memory(std::uint64_t bytes, const std::string& what) {
  const std::uint64_t available = available_host_memory();
  if (bytes <= available) return {};
  return {Code::out_of_budget,
          what + " needs " + format_bytes(bytes) + " of memory; " + format_bytes(available) + " are available"};
}

}  // namespace strata
