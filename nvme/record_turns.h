// The turns that a rank takes before it moves a record: those of every folder on which the record has bytes, one direction at a
// time. Requests of several ranks then do not stand between each other at a drive (the tier-exclusive concurrency control of
// MLP-Offload).
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "nvme/record_layout.h"
#include "nvme/turn_file.h"
#include "nvme/turn_options.h"
#include "runtime/status.h"

namespace strata {

class RecordTurns {
 public:
  // The turns that a record needs, until destruction.
  class Held {
   public:
    explicit Held(IoRequest::Kind way) : way_(way) {}
    Held(Held&& other) noexcept : way_(other.way_), files_(std::move(other.files_)) { other.files_.clear(); }
    Held& operator=(Held&&) = delete;
    ~Held() {
      for (TurnFile* file : files_) file->give_back(way_);
    }

   private:
    friend class RecordTurns;
    IoRequest::Kind way_;
    std::vector<TurnFile*> files_;
  };

  // None are ever taken.
  RecordTurns() = default;
  // Of the folders of `paths`, state files that exist. largest: bytes of a record; with timeout, of a drive, it bounds the
  // wait. What the user should hear is added to `notes`: folders where turns cannot be taken, and those where they are by
  // `automatic`.
  static RecordTurns open(std::span<const std::string> paths, const TurnOptions& options, std::size_t largest,
                          std::chrono::milliseconds timeout, std::vector<std::string>* notes);

  // Blocks until all are there. Any thread.
  Result<Held> take(IoRequest::Kind way, const RecordExtent& extent) const;
  // A drive hangs: nothing will be removed.
  void leave_files();

 private:
  std::vector<std::unique_ptr<TurnFile>> files_;  // in the order in which they are taken; of each folder one
  std::vector<TurnFile*> of_path_;                // null: no turns there
  std::size_t smallest_ = 0;                      // bytes of a record on a path; below, none are taken
  std::chrono::milliseconds limit_{0};
};

}  // namespace strata
