#include "nvme/record_traffic.h"

#include <algorithm>

#include "nvme/format.h"

namespace strata {
namespace {

constexpr std::size_t kMostRecords = 4096;  // where records are small, the files are

std::size_t records(const RecordTrafficOptions& options) {
  const std::size_t one[] = {options.payload_bytes};
  const std::size_t fit = options.file_bytes / std::max<std::size_t>(RecordFile::file_bytes(one), 1);
  return std::clamp<std::size_t>(fit, 2, kMostRecords);
}

}  // namespace

std::size_t RecordTraffic::window_bytes(const RecordTrafficOptions& options) {
  return RecordFile::buffer_bytes_for(options.payload_bytes);
}

Result<std::unique_ptr<RecordTraffic>> RecordTraffic::create(const std::vector<std::string>& paths,
                                                             const RecordTrafficOptions& options,
                                                             std::span<std::byte> read_window,
                                                             std::span<std::byte> write_window) {
  STRATA_CHECK(options.payload_bytes > 0, "a record has bytes");
  std::unique_ptr<RecordTraffic> traffic(new RecordTraffic());
  traffic->payload_bytes_ = options.payload_bytes;
  traffic->read_window_ = read_window;
  traffic->write_window_ = write_window;
  traffic->versions_.resize(records(options));
  const std::vector<std::size_t> payloads(traffic->versions_.size(), options.payload_bytes);
  STRATA_ASSIGN_OR_RETURN(
      traffic->file_,
      RecordFile::create(paths, payloads,
                         {.prewrite = false, .weights = options.weights, .io = options.io, .turns = options.turns}));
  std::string why_fallback;
  STRATA_ASSIGN_OR_RETURN(traffic->read_engine_, make_io_engine(options.io, &why_fallback));
  STRATA_ASSIGN_OR_RETURN(traffic->write_engine_, make_io_engine(options.io, nullptr));
  traffic->notes_ = traffic->file_->notes();
  if (!why_fallback.empty()) traffic->notes_.push_back(why_fallback);
  const std::vector<IoFile*> files = traffic->file_->io_files();
  traffic->read_engine_->register_files(files);
  traffic->read_engine_->register_buffers({&traffic->read_window_, 1});
  traffic->write_engine_->register_files(files);
  traffic->write_engine_->register_buffers({&traffic->write_window_, 1});
  return traffic;
}

Status RecordTraffic::write_all() {
  // Not zeros: some devices treat them specially.
  for (std::size_t i = 0; i < write_window_.size(); ++i) write_window_[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  for (const std::uint64_t version : {1, 2})
    for (std::size_t r = 0; r < versions_.size(); ++r) {
      STRATA_RETURN_IF_ERROR(file_->write(*write_engine_, RecordId{static_cast<std::int64_t>(r)}, version, write_window_));
      versions_[r] = version;
    }
  return {};
}

Status RecordTraffic::read() {
  const std::size_t r = next_read_++ % (versions_.size() / 2);
  return file_->read(*read_engine_, RecordId{static_cast<std::int64_t>(r)}, versions_[r], read_window_);
}

Status RecordTraffic::write() {
  const std::size_t half = versions_.size() / 2;
  const std::size_t r = half + next_written_++ % (versions_.size() - half);
  return file_->write(*write_engine_, RecordId{static_cast<std::int64_t>(r)}, ++versions_[r], write_window_);
}

}  // namespace strata
