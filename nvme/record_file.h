// One preallocated file of fixed records with two slots each (A/B). The slot of version v is v % 2, so the new version is
// written beside the old one, payload first and header last; a crash never leaves a record without a readable version.
// Format: docs/state_format.md. Opened with O_DIRECT where the file system has it; everything is aligned to 4096 bytes. The
// file lives as long as the object: nothing of it survives, so nothing is flushed to the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

struct RecordId {
  std::int64_t v = 0;
};

struct RecordFileOptions {
  bool direct = true;    // false: through the page cache
  bool prewrite = true;  // see BlockFileOptions
};

// Thread-safe as stated at write(); a record is written by one thread at a time, and not while one reads the same slot.
class RecordFile {
 public:
  // Creates (or overwrites) `path` and allocates space for `payload_bytes[i]` bytes of payload for record i, twice.
  // ENOSPC is reported here with what is needed and what is free, before training starts. The file is removed on
  // destruction.
  static Result<std::unique_ptr<RecordFile>> create(const std::string& path, std::vector<std::size_t> payload_bytes,
                                                    const RecordFileOptions& options = {});
  // Bytes create() would allocate. Pure.
  static std::size_t file_bytes(std::span<const std::size_t> payload_bytes);
  ~RecordFile();

  // Capacity a buffer for record `id` needs: the payload rounded up to whole blocks of 4096 bytes, and the header block.
  // Buffers passed below are TierArena buffers (4096-aligned) of at least this size; the payload starts at offset 0.
  std::size_t buffer_bytes(RecordId id) const;
  // The same for a payload of any size. Pure: used to plan windows before the file exists.
  static std::size_t buffer_bytes_for(std::size_t payload_bytes);

  // Errors of both name the record, its version, the path and the offset.
  // Writes `buffer`'s payload as `version`, which follows the last one written to this record (versions of one parity share a
  // slot); after a failure the same version may be written again. Blocks until the payload and then the header are written. The
  // buffer's bytes beyond the payload are overwritten. Different records may be used from different threads, each thread with
  // its own engine.
  Status write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);
  // Reads exactly `version` and checks id, version, size and checksum. Code::corrupt says what differs; the buffer's contents
  // are then undefined.
  Status read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer);

  const std::string& path() const;
  // Why the file goes through the page cache although direct I/O was asked for: to be said aloud. Empty otherwise.
  const std::string& why_buffered() const;

 private:
  class Impl;
  explicit RecordFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
