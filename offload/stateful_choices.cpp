#include "offload/stateful_choices.h"

#include <algorithm>

namespace strata {

Status StatefulChoices::allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& on_gpu,
                                 StreamRef updates, TierArena& gpu, TierArena& cpu) {
  updates_ = updates;
  dry_ = updates.device().backend() == Backend::dry;
  params_.resize(layout_.units.size());
  for (std::size_t u = 0; u < params_.size(); ++u) params_[u].resize(layout_.units[u].params.size());
  std::int64_t words = 0;
  for (std::size_t r = 0; r < records.size(); ++r) {
    const auto u = static_cast<std::size_t>(records[r].unit);
    for (const ParamPiece& piece : params_in(layout_.units[u], records[r].range)) {
      const ParamExtent& extent = layout_.units[u].params[piece.param];
      Param& param = params_[u][piece.param];
      // Stands for what is chosen where nothing is computed.
      if (!param.set) param.set = StatefulSet::all(shape_of(extent).rows, shape_of(extent).columns);
      const std::int64_t needed = method_.stateful_words(shape_of(extent), groups_[extent.group]);
      if (on_gpu[r] == 0 || needed == 0 || param.words_at >= 0) continue;
      param.words_at = words;
      words += needed;
    }
  }
  if (words == 0) return {};
  const std::size_t bytes = static_cast<std::size_t>(words) * sizeof(StatefulWord);
  STRATA_ASSIGN_OR_RETURN(words_, gpu.allocate(bytes, Category::optimizer, "which elements have optimizer state"));
  STRATA_ASSIGN_OR_RETURN(image_, cpu.allocate(bytes, Category::optimizer, "which elements have optimizer state"));
  return {};
}

void StatefulChoices::choose(std::int64_t step) {
  const std::int64_t choice = method_.choice(step);
  if (choice == choice_) return;
  set_choice(choice);
  fresh_ = true;
}

void StatefulChoices::hold(std::int64_t choice, std::int64_t updates_done) {
  fresh_ = choice < 0;
  set_choice(fresh_ ? method_.choice(updates_done + 1) : choice);
}

void StatefulChoices::set_choice(std::int64_t choice) {
  if (choice == choice_) return;
  choice_ = choice;
  if (dry_) return;
  for (std::size_t u = 0; u < params_.size(); ++u)
    for (std::size_t p = 0; p < params_[u].size(); ++p) {
      const ParamExtent& extent = layout_.units[u].params[p];
      if (params_[u][p].set) params_[u][p].set = method_.stateful(shape_of(extent), groups_[extent.group], choice);
    }
  if (words_) copy_words();
}

// Behind the updates that are enqueued, which read the words that are there.
void StatefulChoices::copy_words() {
  (void)copied_.drain();  // the image may be written; an error is the stream's to tell
  auto* const image = reinterpret_cast<StatefulWord*>(image_.data());
  for (const std::vector<Param>& unit : params_)
    for (const Param& param : unit)
      if (param.words_at >= 0) std::copy(param.set->words().begin(), param.set->words().end(), image + param.words_at);
  copy_async(image_.data(), words_.data(), words_.size(), *updates_);
  copied_ = updates_->record();
}

StatefulChoices::Choice StatefulChoices::of(int unit, std::size_t param) const {
  const Param& p = params_[static_cast<std::size_t>(unit)][param];
  Choice choice{.set = *p.set, .is_everything = p.set->map().kind == StatefulKind::all};
  choice.states_are_zero = fresh_ && !choice.is_everything;
  if (p.words_at >= 0 && !p.set->words().empty())
    choice.gpu_words = reinterpret_cast<const StatefulWord*>(words_.data()) + p.words_at;
  return choice;
}

}  // namespace strata
