#include "nvme/state_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string_view>

#include "nvme/turn_file.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

// By StateFileKind.
constexpr std::array<std::string_view, 4> kPrefixes = {"state_rank_", "parameters_rank_", "gradients_rank_",
                                                       "activations_rank_"};
constexpr std::string_view kSuffix = ".bin";

std::string file_name(std::string_view prefix, int rank) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%05d", rank);
  return std::string(prefix) + digits + std::string(kSuffix);
}

// Of a name that file_name() gives; nothing else is ours to remove.
std::optional<int> rank_of(const std::string& name) {
  for (const std::string_view prefix : kPrefixes) {
    if (!name.starts_with(prefix)) continue;
    int rank = -1;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), rank);
    if (rank >= 0 && name == file_name(prefix, rank)) return rank;
  }
  return std::nullopt;
}

// Bytes freed: 0 where somebody holds the file.
Result<std::uint64_t> remove_unless_held(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? Result<std::uint64_t>(0) : Status::from_errno("open", path, errno);
  struct stat info {};
  std::uint64_t freed = 0;
  int error = 0;
  // The lock of BlockFile.
  if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && ::flock(fd, LOCK_EX | LOCK_NB) == 0) {
    error = ::unlink(path.c_str()) == 0 || errno == ENOENT ? 0 : errno;
    if (error == 0) freed = static_cast<std::uint64_t>(info.st_blocks) * 512;
  }
  ::close(fd);
  if (error != 0) return Status::from_errno("remove", path, error);
  return freed;
}

}  // namespace

std::string state_file_path(const std::string& folder, int rank, StateFileKind kind) {
  return (fs::path(folder) / file_name(kPrefixes[static_cast<std::size_t>(kind)], rank)).string();
}

Status require_different_files(const std::vector<std::string>& paths) {
  for (std::size_t a = 0; a < paths.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      const fs::path first(paths[b]), second(paths[a]);
      std::error_code error;
      const bool one_folder =
          first.parent_path() == second.parent_path() || fs::equivalent(first.parent_path(), second.parent_path(), error);
      if (one_folder && !error && first.filename() == second.filename()) {
        return {Code::invalid_config, "nvme.path: " + first.parent_path().string() + " and " + second.parent_path().string() +
                                          " are the same folder; name each once"};
      }
    }
  }
  return {};
}

Result<std::uint64_t> remove_stale_state_files(const std::string& folder, int world) {
  std::uint64_t freed = 0;
  Status first;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::optional<int> rank = rank_of(entry->path().filename().string());
    if (!rank || *rank < world) continue;
    const Result<std::uint64_t> removed = remove_unless_held(entry->path().string());
    if (removed.ok()) freed += *removed;
    if (first.ok()) first = removed.status();
  }
  if (error) return Status::from_errno("list", folder, error.value());
  if (const Status status = TurnFile::remove_stale(folder); first.ok()) first = status;
  if (!first.ok()) return first;
  return freed;
}

}  // namespace strata
