// Preallocated files of fixed records with two slots each (A/B), one file on each path, with the bytes of every record spread
// over all of them. The slot of version v is v % 2, so the new version is written beside the old one, payload first and header
// last; a crash never leaves a record without a readable version. What is of no use after a crash can have one slot.
// Format: docs/state_format.md. Opened with O_DIRECT where the file system has it; everything is aligned to 4096 bytes. The
// files live as long as the object: nothing of them survives, so nothing is flushed to the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/format.h"
#include "nvme/io_engine.h"
#include "nvme/latency.h"
#include "nvme/record_memory.h"
#include "nvme/turn_options.h"
#include "runtime/status.h"

namespace strata {

struct RecordId {
  std::int64_t v = 0;
};

struct RecordFileOptions {
  bool direct = true;    // false: through the page cache
  bool prewrite = true;  // see BlockFileOptions
  // Share of the bytes that each path gets, in any unit. Empty: measured by probe_paths() where there are several paths.
  std::vector<double> weights{};
  std::size_t slots = format::kSlots;  // of a record; 1: a new version is written over the old one
  // For measuring; its timeout holds for making the files too.
  IoEngineOptions io{};
  TurnOptions turns{};  // of the ranks of this host: one at a time then reads a folder, and one writes it
};

// What went over one path since the last take_traffic().
struct PathTraffic {
  std::string path;
  LatencySummary read, write;
};

// Thread-safe as stated at write(); a record is written by one thread at a time, and not while one reads the same slot.
class RecordFile {
 public:
  // Creates (or overwrites) `paths`, at least one, and allocates space for `payload_bytes[i]` bytes of payload for record i
  // in every slot. ENOSPC is reported here with what is needed and what is free, before training starts. The files are removed
  // on destruction, but for those whose device hangs: the next run takes them over. Two paths that are one file:
  // invalid_config.
  static Result<std::unique_ptr<RecordFile>> create(const std::vector<std::string>& paths,
                                                    std::vector<std::size_t> payload_bytes,
                                                    const RecordFileOptions& options = {});
  // Bytes create() would allocate, on all paths together. Pure: does not depend on the paths.
  static std::size_t file_bytes(std::span<const std::size_t> payload_bytes, std::size_t slots = format::kSlots);
  ~RecordFile();

  // Capacity a buffer for record `id` needs: the payload rounded up to whole blocks of 4096 bytes, and the header block.
  // Buffers passed below are TierArena buffers (4096-aligned) of at least this size; the payload starts at offset 0.
  std::size_t buffer_bytes(RecordId id) const;
  // The same for a payload of any size. Pure: used to plan windows before the file exists.
  static std::size_t buffer_bytes_for(std::size_t payload_bytes);

  // Errors of both name the record, its version, the path and the offset.
  // Writes `buffer`'s payload as `version`, which follows the last one written to this record (versions of one parity share a
  // slot) or is that one again, which leaves the version before it as it is. Blocks until the payload, on all paths, and then
  // the header are written. The buffer's bytes beyond the payload are overwritten. Different records may be used from different
  // threads, each thread with its own engine. `memory` is what the buffer lies in, and the engine one for it; absent: the
  // host's.
  Status write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);
  Status write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer, RecordMemory& memory);
  // Reads exactly `version` and checks id, version, size and checksum. Code::corrupt says what differs; the buffer's contents
  // are then undefined.
  Status read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);
  Status read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer, RecordMemory& memory);

  std::vector<std::string> paths() const;
  // For IoEngine::register_files; valid as long as this object.
  std::vector<IoFile*> io_files() const;
  // To be said aloud: a path that goes through the page cache although direct I/O was asked for; measured weights; what
  // became of the wish for turns.
  const std::vector<std::string>& notes() const;
  // From one thread at a time, also while records are read and written.
  std::vector<PathTraffic> take_traffic();

 private:
  class Impl;
  explicit RecordFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
