#include "offload/unit_pieces.h"

#include <algorithm>

#include "offload/records.h"

namespace strata {

UnitPieces::UnitPieces(const StateLayout& layout, Rank rank, int zero_stage, std::int64_t record_size,
                       const std::vector<Tier>& homes, DType dtype)
    : pieces_(layout.units.size()) {
  std::vector<std::size_t> unit_bytes(layout.units.size(), 0);
  std::int64_t records = 0;
  for (const OptimizerRecord& record : cut_optimizer_records(layout, rank, zero_stage, record_size)) {
    const auto u = static_cast<std::size_t>(record.unit);
    place_.emplace_back(record.unit, pieces_[u].size());
    if (homes.empty() || homes[u] != Tier::nvme) continue;
    const std::size_t bytes = static_cast<std::size_t>(record.range.count) * size_of(dtype);
    pieces_[u].push_back({record.range, unit_bytes[u], bytes, records++});
    unit_bytes[u] += NvmeRecords::window_bytes(bytes);
    longest_ = std::max(longest_, unit_bytes[u]);
  }
}

Status UnitPieces::open(const std::vector<std::string>& files, const NvmeOptions& options, StreamRef read_stream,
                        StreamRef write_stream, std::span<const std::span<std::byte>> windows,
                        std::vector<std::string>* notes) {
  std::vector<std::size_t> payloads;
  for (const std::vector<UnitPiece>& unit : pieces_)
    for (const UnitPiece& piece : unit) payloads.push_back(piece.bytes);
  STRATA_ASSIGN_OR_RETURN(file_, NvmeRecords::create(files, payloads, 1, options, read_stream, write_stream, windows, notes));
  return {};
}

}  // namespace strata
