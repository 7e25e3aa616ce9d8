// States of matrices that take turns (Optimizer::takes_turns()): one memory in each tier for those of one choice, given out
// anew with the next. It lies where the records are updated, at every step, and not at their homes. Called from the step's
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "offload/layout.h"
#include "offload/records.h"
#include "offload/stateful_choices.h"
#include "optim/optimizer.h"
#include "runtime/arena.h"

namespace strata {

class TurnStates {
 public:
  // All references outlive it.
  TurnStates(const StateLayout& layout, const Optimizer& method, const ParamGroups& groups)
      : layout_(layout), method_(method), groups_(groups), arrays_(method.states().size()) {}
  // on_gpu: of each record, whether a GPU with its own memory updates it; pieces: state_pieces() of each.
  Status allocate(const std::vector<OptimizerRecord>& records, const std::vector<std::vector<StatePiece>>& pieces,
                  const std::vector<char>& on_gpu, TierArena& gpu, TierArena& cpu);
  // Gives out the memory for the choice that holds now, if it did not yet. What updates a tier's records is one stream, so what
  // is enqueued with the old places is done before the new ones are used.
  void place(const StatefulChoices& choices);

  bool has(std::size_t record) const { return !records_.empty() && records_[record].most > 0; }
  bool on_gpu(std::size_t record) const { return records_[record].on_gpu; }
  // The record's states, as many arrays as the optimizer has; `count` values in each.
  std::array<float*, kMaxStates> arrays(std::size_t record) const;
  std::int64_t count(std::size_t record) const { return records_[record].count; }
  // Where those of its i-th piece begin.
  std::int64_t place_of(std::size_t record, std::size_t piece) const { return records_[record].pieces[piece].at; }
  // For records that a GPU updates: host memory for the states of one of them at a time.
  std::array<float*, kMaxStates> image(std::size_t record) const;

 private:
  struct Piece {
    ParamPiece of;  // count 0: it has its states elsewhere
    std::int64_t at = 0;
  };
  struct Record {
    int unit = 0;
    bool on_gpu = false;
    std::int64_t most = 0;           // OptimizerRecord::turns
    std::int64_t at = 0, count = 0;  // in the tier's arrays
    std::vector<Piece> pieces = {};
  };
  std::array<float*, kMaxStates> arrays_in(const Buffer& memory, std::int64_t length, std::int64_t at) const;
  std::size_t bytes(std::int64_t length) const;

  const StateLayout& layout_;
  const Optimizer& method_;
  const ParamGroups& groups_;
  const std::size_t arrays_;
  std::vector<Record> records_;
  std::int64_t placed_ = -1;              // the choice
  std::array<Buffer, 2> memory_;          // in CPU memory, and in the gpu tier
  std::array<std::int64_t, 2> length_{};  // values of each array there
  Buffer image_;
  std::int64_t image_length_ = 0;
};

}  // namespace strata
