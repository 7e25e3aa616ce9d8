// The traffic of a step on the drives, for measuring: records of scratch state files are read and written as training does,
// with an engine for each direction, all paths at once, and headers and checksums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "nvme/record_file.h"
#include "runtime/status.h"

namespace strata {

struct RecordTrafficOptions {
  std::size_t payload_bytes = 0;  // of a record, >= 1
  std::size_t file_bytes = 0;     // of all paths together, about; at least two records
  std::vector<double> weights{};  // of the paths, as RecordFileOptions
  IoEngineOptions io{};
  TurnOptions turns{};
};

class RecordTraffic {
 public:
  // Creates the files; they are removed on destruction. `read_window` and `write_window`: memory of window_bytes() each, as
  // RecordFile demands; outlive the object. `paths` are best those of the run's own state files: what a killed process leaves
  // there, the next run takes over. Errors: as RecordFile::create.
  static Result<std::unique_ptr<RecordTraffic>> create(const std::vector<std::string>& paths,
                                                       const RecordTrafficOptions& options, std::span<std::byte> read_window,
                                                       std::span<std::byte> write_window);
  static std::size_t window_bytes(const RecordTrafficOptions& options);

  // Both slots of every record once, before anything else: then what is measured is what a run does from its second step on.
  Status write_all();
  // One record each, of payload_bytes. Blocking; each from one thread at a time, and both at the same time.
  Status read();
  Status write();
  std::size_t payload_bytes() const { return payload_bytes_; }
  // To be said aloud: an engine that fell back, a path that goes through the page cache, measured weights.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  RecordTraffic() = default;

  std::size_t payload_bytes_ = 0;
  std::span<std::byte> read_window_, write_window_;
  std::unique_ptr<RecordFile> file_;
  std::unique_ptr<IoEngine> read_engine_, write_engine_;
  std::vector<std::string> notes_;
  // The first half is read, the second written: neither waits for the other.
  std::vector<std::uint64_t> versions_;  // the last one written, by record
  std::size_t next_read_ = 0, next_written_ = 0;
};

}  // namespace strata
