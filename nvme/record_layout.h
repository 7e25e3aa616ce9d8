// Where the bytes of a record lie in a state file. Pure; the one place that knows, so that records can later be spread over
// several files without their users noticing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace strata {

// The bytes of one version of one record: payload padded to whole blocks, then the header block.
struct RecordExtent {
  std::uint64_t offset = 0;
  std::size_t padded_payload = 0;
  std::size_t bytes() const;
  std::uint64_t header_offset() const { return offset + padded_payload; }
};

class RecordLayout {
 public:
  explicit RecordLayout(std::vector<std::size_t> payload_bytes);

  static std::size_t extent_bytes(std::size_t payload_bytes);  // padded payload + header block

  std::size_t records() const { return payload_bytes_.size(); }
  std::size_t payload_bytes(std::size_t record) const { return payload_bytes_[record]; }
  RecordExtent extent(std::size_t record, std::uint64_t version) const;
  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  std::vector<std::size_t> payload_bytes_;
  std::vector<std::uint64_t> offsets_;  // of slot 0 of each record
  std::uint64_t file_bytes_ = 0;
};

}  // namespace strata
