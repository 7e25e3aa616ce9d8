// Units on NVMe, in pieces: one record of a file for what each optimizer record updates of a unit, so that an update reads or
// writes no more than it needs. One slot each: what is lost can be made again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offload/layout.h"
#include "offload/nvme_records.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"

namespace strata {

struct UnitPiece {
  Slice range;              // in the unit
  std::size_t offset = 0;   // in a window that holds all of the unit's pieces
  std::size_t bytes = 0;    // of payload
  std::int64_t record = 0;  // in the file
};

class UnitPieces {
 public:
  // homes: of each unit; those on NVMe have pieces. record_size: of the optimizer store.
  UnitPieces(const StateLayout& layout, Rank rank, int zero_stage, std::int64_t record_size, const std::vector<Tier>& homes,
             DType dtype);
  // Makes the files, where there are pieces, before anything is read or written. windows: for the engines to register.
  Status open(const std::vector<std::string>& files, const NvmeOptions& options, StreamRef read_stream, StreamRef write_stream,
              std::span<const std::span<std::byte>> windows, std::vector<std::string>* notes);

  const std::vector<UnitPiece>& of(int u) const { return pieces_[static_cast<std::size_t>(u)]; }
  // Of a window for all pieces of the unit that needs most; 0: there are none.
  std::size_t longest_unit() const { return longest_; }
  // Of an optimizer record whose unit is on NVMe.
  const UnitPiece& of_record(std::size_t r) const {
    const auto [u, p] = place_[r];
    return pieces_[static_cast<std::size_t>(u)][p];
  }
  // Enqueue a transfer on its stream; `window` holds the piece alone. name: a literal.
  void read(const UnitPiece& piece, std::span<std::byte> window, const char* name) {
    file_->read(piece.record, window, name, static_cast<double>(piece.bytes));
  }
  void write(const UnitPiece& piece, std::span<std::byte> window, const char* name) {
    file_->write(piece.record, window, name, static_cast<double>(piece.bytes));
  }
  // The piece's part of a window for all of the unit's.
  static std::span<std::byte> in(const Buffer& unit_window, const UnitPiece& piece) {
    return {unit_window.data() + piece.offset, NvmeRecords::window_bytes(piece.bytes)};
  }

  std::size_t nvme_bytes() const { return file_->bytes(); }
  std::vector<PathTraffic> take_traffic() { return file_->take_traffic(); }

 private:
  std::vector<std::vector<UnitPiece>> pieces_;      // of each unit
  std::vector<std::pair<int, std::size_t>> place_;  // of each optimizer record: its unit, and place among its pieces
  std::size_t longest_ = 0;
  std::unique_ptr<NvmeRecords> file_;
};

}  // namespace strata
