#include "parallel/process_stat.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <string>

namespace strata {

std::optional<ProcessStat> read_process(int pid) {
  std::FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "re");
  if (file == nullptr) return std::nullopt;
  char text[1024];
  const std::size_t length = std::fread(text, 1, sizeof(text), file);
  std::fclose(file);
  const std::string line(text, length);
  const std::size_t name_end = line.rfind(')');  // the command's name may hold anything, also blanks and parentheses
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  ProcessStat stat;
  fields >> stat.state;  // field 3
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.start_time;
  if (!fields) return std::nullopt;
  return stat;
}

bool process_is_dead(int pid, std::uint64_t start_time) {
  const std::optional<ProcessStat> stat = read_process(pid);
  if (!stat) return ::kill(pid, 0) != 0 && errno == ESRCH;
  return stat->state == 'Z' || stat->state == 'X' || (start_time != 0 && stat->start_time != start_time);
}

}  // namespace strata
