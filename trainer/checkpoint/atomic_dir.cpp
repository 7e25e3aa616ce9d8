#include "trainer/checkpoint/atomic_dir.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>

#include "model/text_file.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp";
constexpr std::string_view kSetAside = ".old";

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string with(const std::string& path, std::string_view suffix) { return without_slash(path) + std::string(suffix); }

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(without_slash(path)).parent_path().string();
  return parent.empty() ? std::string(".") : parent;
}

Status failed(const std::string& operation, const std::string& path, const std::error_code& error) {
  return Status::from_errno(operation, path, error.value());
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

Status remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? failed("remove", path, error) : Status();
}

Status rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return {};
  return Status::from_errno("rename", from + " -> " + to, errno);
}

Status fsync_tree(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const fs::file_status status = it->symlink_status(error);
    if (error) return failed("stat", it->path().string(), error);
    if (fs::is_directory(status)) STRATA_RETURN_IF_ERROR(fsync_tree(it->path().string()));
    if (fs::is_regular_file(status)) STRATA_RETURN_IF_ERROR(flush_to_device(it->path().string()));
  }
  if (error) return failed("list folder", folder, error);
  return flush_to_device(folder);
}

// Puts `from` in the place of the existing `to`, whose contents end in to + ".old". At every moment the old or the new contents
// are there: under `to`, or, on a file system that cannot exchange names, for a moment only as to + ".old".
Status replace(const std::string& from, const std::string& to) {
  const std::string old = with(to, kSetAside);
  STRATA_RETURN_IF_ERROR(remove_tree(old));
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return rename(from, old);
  if (errno != EINVAL && errno != ENOSYS) return Status::from_errno("exchange", from + " <-> " + to, errno);
#endif
  STRATA_RETURN_IF_ERROR(rename(to, old));
  return rename(from, to);
}

// What the names in a folder of checkpoints say about one step.
struct Found {
  bool committed = false;
  bool set_aside = false;
  bool temporary = false;
};

// The step and suffix of "step_12", "step_12.tmp", "step_12.old"; nothing for any other name.
std::optional<std::pair<std::int64_t, std::string_view>> parse_name(std::string_view name) {
  constexpr std::string_view kPrefix = "step_";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  const auto digits = static_cast<std::size_t>(end - name.data());
  const bool canonical = error == std::errc() && step >= 0 && std::to_string(step) == name.substr(0, digits);
  const std::string_view suffix = name.substr(canonical ? digits : 0);
  if (!canonical || (!suffix.empty() && suffix != kTemporary && suffix != kSetAside)) return std::nullopt;
  return std::pair(step, suffix);
}

Result<std::map<std::int64_t, Found>> scan(const std::string& parent) {
  std::map<std::int64_t, Found> found;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const auto parsed = parse_name(name);
    std::error_code ignored;
    if (!parsed || !it->is_directory(ignored)) continue;
    Found& step = found[parsed->first];
    (parsed->second.empty() ? step.committed : parsed->second == kTemporary ? step.temporary : step.set_aside) = true;
  }
  if (error && error != std::errc::no_such_file_or_directory) return failed("list folder", parent, error);
  return found;
}

std::string step_path(const std::string& parent, std::int64_t step) { return parent + "/step_" + std::to_string(step); }

// Under another name first, so that a crash in the middle leaves no folder that looks committed.
Status remove_committed(const std::string& path) {
  const std::string tmp = temporary_path(path);
  STRATA_RETURN_IF_ERROR(remove_tree(tmp));
  STRATA_RETURN_IF_ERROR(rename(path, tmp));
  return remove_tree(tmp);
}

}  // namespace

std::string temporary_path(const std::string& path) { return with(path, kTemporary); }

Status make_folders(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return {};
  STRATA_RETURN_IF_ERROR(make_folders(parent_of(path)));
  fs::create_directory(path, error);
  if (error) return failed("create folder", path, error);
  return flush_to_device(parent_of(path));
}

Status begin_atomic_dir(const std::string& path) {
  const std::string tmp = temporary_path(path);
  STRATA_RETURN_IF_ERROR(make_folders(parent_of(path)));
  STRATA_RETURN_IF_ERROR(remove_tree(tmp));
  std::error_code error;
  fs::create_directory(tmp, error);
  return error ? failed("create folder", tmp, error) : Status();
}

Status commit_atomic_dir(const std::string& path) {
  const std::string tmp = temporary_path(path);
  const std::string target = without_slash(path);
  STRATA_RETURN_IF_ERROR(fsync_tree(tmp));
  const bool replaces = exists(target);
  STRATA_RETURN_IF_ERROR(replaces ? replace(tmp, target) : rename(tmp, target));
  STRATA_RETURN_IF_ERROR(flush_to_device(parent_of(path)));
  return replaces ? remove_tree(with(path, kSetAside)) : Status();
}

Status discard_atomic_dir(const std::string& path) { return remove_tree(temporary_path(path)); }

Result<std::vector<StepDir>> list_step_dirs(const std::string& parent) {
  STRATA_ASSIGN_OR_RETURN(const auto found, scan(parent));
  std::vector<StepDir> steps;
  for (const auto& [step, names] : found) {
    if (names.committed) steps.push_back({step, step_path(parent, step)});
    // A crash between the two renames of a replacement: the old contents are the committed ones.
    if (!names.committed && names.set_aside) steps.push_back({step, with(step_path(parent, step), kSetAside)});
  }
  return steps;
}

Status prune_step_dirs(const std::string& parent, std::int64_t keep) {
  STRATA_ASSIGN_OR_RETURN(auto found, scan(parent));
  std::vector<std::string> committed;
  for (auto& [step, names] : found) {
    const std::string path = step_path(parent, step);
    if (names.set_aside && !names.committed) {
      STRATA_RETURN_IF_ERROR(rename(with(path, kSetAside), path));
      names.committed = true;
    } else if (names.set_aside) {
      STRATA_RETURN_IF_ERROR(remove_tree(with(path, kSetAside)));
    }
    if (names.temporary) STRATA_RETURN_IF_ERROR(remove_tree(temporary_path(path)));
    if (names.committed) committed.push_back(path);
  }
  const auto kept = static_cast<std::size_t>(std::max<std::int64_t>(keep, 0));
  if (kept == 0 || committed.size() <= kept) return {};
  for (std::size_t i = 0; i < committed.size() - kept; ++i) STRATA_RETURN_IF_ERROR(remove_committed(committed[i]));
  return flush_to_device(parent);
}

}  // namespace strata
