// Where the bytes of a record lie in the state files of a rank. Pure; the one place that knows.
//
// A record's payload is cut into chunks that are dealt over the paths: each to the path that would be done with it first,
// where the bytes dealt so far, over all records, take time in inverse proportion to the path's weight (weighted round-robin
// for chunks of one size). The header lies behind the last chunk. With one path every version is one extent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nvme/format.h"

namespace strata {

// Bytes of one version that lie together in one file and in the record's buffer.
struct RecordPiece {
  std::size_t path = 0;
  std::uint64_t offset = 0;  // in the file
  std::size_t first = 0;     // in the buffer
  std::size_t bytes = 0;
};

// The bytes of one version of one record: payload padded to whole blocks, then the header block.
struct RecordExtent {
  std::size_t padded_payload = 0;
  std::vector<RecordPiece> payload;  // in the order of the buffer
  RecordPiece header;
  std::size_t bytes() const { return padded_payload + header.bytes; }
};

class RecordLayout {
 public:
  // weights: of each path, positive; only their ratios matter. slots: of a record, 1 or 2.
  RecordLayout(std::vector<std::size_t> payload_bytes, std::span<const double> weights, std::size_t slots = format::kSlots);
  explicit RecordLayout(std::vector<std::size_t> payload_bytes, std::size_t slots = format::kSlots);  // one path

  static std::size_t extent_bytes(std::size_t payload_bytes);  // padded payload + header block

  std::size_t records() const { return payload_bytes_.size(); }
  std::size_t slots() const { return slots_; }
  std::size_t paths() const { return file_bytes_.size(); }
  std::size_t payload_bytes(std::size_t record) const { return payload_bytes_[record]; }
  RecordExtent extent(std::size_t record, std::uint64_t version) const;
  std::uint64_t file_bytes(std::size_t path) const { return file_bytes_[path]; }
  std::uint64_t total_bytes() const;

 private:
  // What a record has in one file: its slots, one behind the other.
  struct Part {
    std::uint64_t offset = 0;
    std::uint64_t slot_bytes = 0;
  };
  const Part& part(std::size_t record, std::size_t path) const { return parts_[record * paths() + path]; }

  std::vector<std::size_t> payload_bytes_;
  std::size_t slots_;
  std::vector<std::uint64_t> file_bytes_;   // of each path
  std::vector<Part> parts_;                 // of each record on each path
  std::vector<std::size_t> first_chunk_;    // of each record, in chunk_paths_
  std::vector<std::uint16_t> chunk_paths_;  // of each chunk of each record; one more chunk where there is no payload
};

}  // namespace strata
