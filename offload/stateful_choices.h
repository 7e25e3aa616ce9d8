// Which elements of this rank's parameters have optimizer states, as the optimizer chooses from step to step, for both
// processors. Called from the step's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "offload/layout.h"
#include "offload/records.h"
#include "optim/optimizer.h"
#include "optim/param_groups.h"
#include "runtime/arena.h"
#include "runtime/stream.h"

namespace strata {

class StatefulChoices {
 public:
  // All references outlive it.
  StatefulChoices(const StateLayout& layout, const Optimizer& method, const ParamGroups& groups)
      : layout_(layout), method_(method), groups_(groups) {}
  // Words may be on their way to the GPU.
  ~StatefulChoices() { (void)copied_.drain(); }
  StatefulChoices(const StatefulChoices&) = delete;
  StatefulChoices& operator=(const StatefulChoices&) = delete;

  // Of the parameters in `records`; on_gpu: of each record, whether the GPU updates it. `updates`: the GPU's stream. Words that
  // the GPU needs lie in its tier, and once more in CPU memory, from where they are copied.
  Status allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& on_gpu, StreamRef updates,
                  TierArena& gpu, TierArena& cpu);

  // Makes the choice of this step hold for what is enqueued from now on. Where it is a new one, states are zero until
  // were_updated().
  void choose(std::int64_t step);
  void were_updated() { fresh_ = false; }
  // States of this choice are there, or of none (-1) after as many updates.
  void hold(std::int64_t choice, std::int64_t updates_done);
  // That whose states are there; -1: of the next update, and zero.
  std::int64_t held() const { return fresh_ ? -1 : choice_; }
  // That whose sets of() gives, and whether states are zero before its first update.
  std::int64_t current() const { return choice_; }
  bool is_fresh() const { return fresh_; }
  // False where nothing is computed: sets stand for others.
  bool is_real() const { return !dry_; }

  struct Choice {
    StatefulSet set;
    const StatefulWord* gpu_words = nullptr;
    bool is_everything = false;    // all elements have states
    bool states_are_zero = false;  // whatever is stored
  };
  Choice of(int unit, std::size_t param) const;

 private:
  struct Param {
    std::optional<StatefulSet> set;  // absent: not of this rank
    std::int64_t words_at = -1;      // of the GPU's; -1: it needs none
  };
  void set_choice(std::int64_t choice);
  void copy_words();

  const StateLayout& layout_;
  const Optimizer& method_;
  const ParamGroups& groups_;
  std::vector<std::vector<Param>> params_;  // by unit
  Buffer words_, image_;                    // on the GPU, and what it is copied from; empty where it needs none
  std::optional<StreamRef> updates_;
  Event copied_;
  bool dry_ = false;
  std::int64_t choice_ = -1;
  bool fresh_ = true;
};

}  // namespace strata
