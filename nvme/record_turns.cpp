#include "nvme/record_turns.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "nvme/block_device.h"

namespace strata {
namespace {

// What a drive moves at the least when it is driven well: records that others may move first are waited for so long.
constexpr std::size_t kSlowestBytesPerMs = (std::size_t{8} << 20) / 1000;

// By `automatic`: smaller records lost by turns where larger ones gained (docs/state_format.md).
constexpr std::size_t kWorthTurns = std::size_t{32} << 20;

bool rotates(const std::string& folder) {
  struct stat info {};
  return ::stat(folder.c_str(), &info) == 0 && device_queue_number(info.st_dev, "rotational").value_or(0) == 1;
}

}  // namespace

RecordTurns RecordTurns::open(std::span<const std::string> paths, const TurnOptions& options, std::size_t largest,
                              std::chrono::milliseconds timeout, std::vector<std::string>* notes) {
  using When = TurnOptions::When;
  RecordTurns turns;
  if (options.when == When::never || options.ranks <= 1) return turns;
  if (options.when == When::automatic) turns.smallest_ = kWorthTurns;
  if (largest / paths.size() < turns.smallest_) return turns;
  turns.of_path_.resize(paths.size());
  turns.limit_ =
      timeout + std::chrono::milliseconds(static_cast<std::size_t>(options.ranks) * (largest / kSlowestBytesPerMs + 1));
  for (std::size_t p = 0; p < paths.size(); ++p) {
    const std::string folder = std::filesystem::path(paths[p]).parent_path().string();
    if (options.when == When::automatic && !rotates(folder)) continue;
    Result<std::unique_ptr<TurnFile>> made = TurnFile::open(folder);
    if (!made.ok()) {
      notes->push_back(folder + ": ranks do not take turns here (nvme.exclusive): " + made.status().message());
      continue;
    }
    if (options.when == When::automatic)
      notes->push_back(folder +
                       ": ranks of this host take turns, as the kernel says that the drive rotates (nvme.exclusive: auto)");
    const auto same = [&](const auto& file) { return file->identity() == (*made)->identity(); };
    const auto known = std::find_if(turns.files_.begin(), turns.files_.end(), same);
    turns.of_path_[p] = known != turns.files_.end() ? known->get() : made->get();
    if (known == turns.files_.end()) turns.files_.push_back(std::move(made).value());
  }
  std::sort(turns.files_.begin(), turns.files_.end(),
            [](const auto& a, const auto& b) { return a->identity() < b->identity(); });
  return turns;
}

Result<RecordTurns::Held> RecordTurns::take(IoRequest::Kind way, const RecordExtent& extent) const {
  Held held(way);
  if (files_.empty() || extent.bytes() / of_path_.size() < smallest_) return held;
  const auto needs = [&](const TurnFile* file) {
    return of_path_[extent.header.path] == file || std::any_of(extent.payload.begin(), extent.payload.end(),
                                                               [&](const RecordPiece& p) { return of_path_[p.path] == file; });
  };
  for (const std::unique_ptr<TurnFile>& file : files_) {
    if (!needs(file.get())) continue;
    STRATA_RETURN_IF_ERROR(file->take(way, limit_));
    held.files_.push_back(file.get());
  }
  return held;
}

void RecordTurns::leave_files() {
  for (const std::unique_ptr<TurnFile>& file : files_) file->leave_file();
}

}  // namespace strata
