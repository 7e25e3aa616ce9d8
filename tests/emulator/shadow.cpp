#include "tests/emulator/shadow.h"

namespace strata::gpu_emulated {
namespace {

// Readers and writers are threads (below 1024) or one of these.
constexpr std::uint16_t kLanesOf = 0x0800;   // + warp: several lanes of it
constexpr std::uint16_t kSeveral = 0x1000;   // threads of several warps
constexpr std::uint16_t kArriving = 0x8000;  // + writer: its asynchronous copy is on its way

int warp_of(std::uint16_t who) {
  if (who == kSeveral) return -1;
  return who & kLanesOf ? who - kLanesOf : who / 32;
}

// Whether what `who` did at `when` is ordered before what now.thread does.
bool is_before(std::uint16_t who, std::uint32_t when, const Moment& now) {
  return when < now.block || who == now.thread || (when < now.warp && warp_of(who) == now.thread / 32);
}

int thread_or_several(std::uint16_t who) { return who < kLanesOf ? who : Finding::kSeveral; }

}  // namespace

inline Finding Shadow::read_cell(Cell& cell, const Moment& now) {
  using Kind = Finding::Kind;
  const auto me = static_cast<std::uint16_t>(now.thread);
  if (cell.written < now.first) return {Kind::uninitialised, 0};
  if (cell.writer & kArriving) return {Kind::arriving, cell.writer & ~kArriving};
  if (!is_before(cell.writer, cell.written, now)) return {Kind::written_by_other, cell.writer};
  if (is_before(cell.reader, cell.read, now))
    cell.reader = me;
  else if (warp_of(cell.reader) == now.thread / 32)
    cell.reader = static_cast<std::uint16_t>(kLanesOf + now.thread / 32);
  else
    cell.reader = kSeveral;
  cell.read = now.warp;
  return {};
}

inline Finding Shadow::write_cell(Cell& cell, const Moment& now) {
  using Kind = Finding::Kind;
  if (cell.written >= now.first) {
    if (cell.writer & kArriving) return {Kind::arriving, cell.writer & ~kArriving};
    if (!is_before(cell.writer, cell.written, now)) return {Kind::written_by_other, cell.writer};
    if (!is_before(cell.reader, cell.read, now)) return {Kind::read_by_other, thread_or_several(cell.reader)};
  }
  cell.writer = static_cast<std::uint16_t>(now.thread);
  cell.written = now.warp;
  return {};
}

Finding Shadow::read(std::size_t offset, std::size_t bytes, const Moment& now) {
  for (std::size_t i = offset / kCell; i < (offset + bytes) / kCell; ++i)
    if (const Finding finding = read_cell(cells_[i], now)) return finding;
  return {};
}

Finding Shadow::write(std::size_t offset, std::size_t bytes, const Moment& now) {
  for (std::size_t i = offset / kCell; i < (offset + bytes) / kCell; ++i)
    if (const Finding finding = write_cell(cells_[i], now)) return finding;
  return {};
}

Finding Shadow::write_later(std::size_t offset, std::size_t bytes, const Moment& now) {
  if (const Finding finding = write(offset, bytes, now)) return finding;
  for (std::size_t i = offset / kCell; i < (offset + bytes) / kCell; ++i) cells_[i].writer |= kArriving;
  return {};
}

void Shadow::arrive(std::size_t offset, std::size_t bytes, const Moment& now) {
  for (std::size_t i = offset / kCell; i < (offset + bytes) / kCell; ++i) {
    cells_[i].writer = static_cast<std::uint16_t>(now.thread);
    cells_[i].written = now.warp;
  }
}

}  // namespace strata::gpu_emulated
