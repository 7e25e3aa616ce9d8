// What the emulator knows about each cell of a block's shared memory: who wrote it and who read it, and when. Finds races,
// reads of what was never written, and touching what an asynchronous copy has not delivered.
//
// Time is a counter that steps at every synchronisation. Two accesses of different threads are ordered when a barrier of the
// block lies between them, or, in one warp, a sync_warp (a shuffle, mma or ldmatrix does not order memory).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace strata::gpu_emulated {

struct Moment {
  int thread = 0;
  std::uint32_t warp = 0;   // the time of the last barrier or sync_warp of the thread's warp
  std::uint32_t block = 0;  // of the last barrier of the block
  std::uint32_t first = 0;  // of the block's beginning
};

struct Finding {
  enum class Kind { none, uninitialised, arriving, written_by_other, read_by_other };
  Kind kind = Kind::none;
  int other = 0;  // a thread, or kSeveral
  explicit operator bool() const { return kind != Kind::none; }
  static constexpr int kSeveral = -1;
};

class Shadow {
 public:
  // Bytes a cell: two bf16 in a word may belong to two threads.
  static constexpr std::size_t kCell = 2;

  void resize(std::size_t bytes) {
    if (cells_.size() < bytes / kCell + 1) cells_.resize(bytes / kCell + 1);
  }
  // Notes the access; ranges are whole cells inside of what resize() said.
  Finding read(std::size_t offset, std::size_t bytes, const Moment& now);
  Finding write(std::size_t offset, std::size_t bytes, const Moment& now);
  // A write that takes place at an unknown time until arrive(), by the same thread.
  Finding write_later(std::size_t offset, std::size_t bytes, const Moment& now);
  void arrive(std::size_t offset, std::size_t bytes, const Moment& now);

 private:
  struct Cell {
    std::uint32_t written = 0, read = 0;  // when; 0: never
    std::uint16_t writer = 0, reader = 0;
  };
  static Finding read_cell(Cell& cell, const Moment& now);
  static Finding write_cell(Cell& cell, const Moment& now);

  std::vector<Cell> cells_;  // never cleared: time goes on from block to block
};

}  // namespace strata::gpu_emulated
