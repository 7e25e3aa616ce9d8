#include "offload/turn_states.h"

#include <algorithm>

#include "offload/array_stride.h"

namespace strata {
namespace {

std::int64_t aligned(std::int64_t n) { return (n + kParamAlignment - 1) / kParamAlignment * kParamAlignment; }

}  // namespace

std::size_t TurnStates::bytes(std::int64_t length) const {
  const std::int64_t one = length * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::size_t>(static_cast<std::int64_t>(arrays_ - 1) * array_stride(one) + one);
}

Status TurnStates::allocate(const std::vector<OptimizerRecord>& records, const std::vector<std::vector<StatePiece>>& pieces,
                            const std::vector<char>& on_gpu, TierArena& gpu, TierArena& cpu) {
  std::array<std::vector<std::int64_t>, 2> elements;  // of each matrix
  bool any = false;
  for (std::size_t r = 0; r < records.size(); ++r) {
    Record record{.unit = records[r].unit, .on_gpu = on_gpu[r] != 0, .most = records[r].turns};
    for (const StatePiece& piece : pieces[r]) {
      record.pieces.push_back({.of = piece.of});
      if (!piece.takes_turns) {
        record.pieces.back().of.count = 0;
        continue;
      }
      const ParamExtent& param = layout_.units[static_cast<std::size_t>(record.unit)].params[piece.of.param];
      const ParamShape shape = shape_of(param);
      std::vector<std::int64_t>& of_tier = elements[record.on_gpu ? 1 : 0];
      of_tier.resize(static_cast<std::size_t>(shape.matrices));
      std::int64_t begin = 0;
      auto matrix = static_cast<std::size_t>(shape.first_matrix);
      const std::array whole = {shape.rows};
      for (const std::int64_t rows : shape.parts.empty() ? std::span<const std::int64_t>(whole) : shape.parts) {
        const std::int64_t end = begin + rows * shape.columns;
        const std::int64_t n = std::min(end, piece.of.first + piece.of.count) - std::max(begin, piece.of.first);
        if (n > 0) of_tier[matrix] += aligned(n);
        begin = end;
        ++matrix;
      }
    }
    any = any || record.most > 0;
    if (record.on_gpu && arrays_ > 0) image_length_ = std::max(image_length_, record.most);
    records_.push_back(std::move(record));
  }
  if (!any || arrays_ == 0) return {};
  for (std::size_t t = 0; t < memory_.size(); ++t) {
    length_[t] = elements[t].empty() ? 0 : method_.most_at_once(elements[t]);
    if (length_[t] == 0) continue;
    STRATA_ASSIGN_OR_RETURN(
        memory_[t], (t == 0 ? cpu : gpu)
                        .allocate(bytes(length_[t]), Category::optimizer, "optimizer states of the matrices that have some"));
  }
  if (image_length_ > 0) {
    STRATA_ASSIGN_OR_RETURN(image_, cpu.allocate(bytes(image_length_), Category::io, "host image of states that take turns"));
  }
  return {};
}

void TurnStates::place(const StatefulChoices& choices) {
  if (choices.current() == placed_ || !choices.is_real()) return;
  placed_ = choices.current();
  std::array<std::int64_t, 2> next{};
  for (Record& record : records_) {
    std::int64_t& end = next[record.on_gpu ? 1 : 0];
    record.at = end;
    for (Piece& piece : record.pieces) {
      if (piece.of.count == 0) continue;
      piece.at = end - record.at;
      const StatefulSet set = choices.of(record.unit, piece.of.param).set;
      end += aligned(states_before(set.map(), piece.of.first + piece.of.count) - states_before(set.map(), piece.of.first));
    }
    record.count = end - record.at;
  }
  for (std::size_t t = 0; t < next.size(); ++t)
    STRATA_CHECK(arrays_ == 0 || next[t] <= length_[t], "no choice has more states than the optimizer said");
}

std::array<float*, kMaxStates> TurnStates::arrays_in(const Buffer& memory, std::int64_t length, std::int64_t at) const {
  std::array<float*, kMaxStates> arrays{};
  std::byte* next = memory.data();
  for (std::size_t k = 0; k < arrays_; ++k) {
    arrays[k] = reinterpret_cast<float*>(next) + at;
    next += array_stride(length * static_cast<std::int64_t>(sizeof(float)));
  }
  return arrays;
}

std::array<float*, kMaxStates> TurnStates::arrays(std::size_t record) const {
  const std::size_t tier = records_[record].on_gpu ? 1 : 0;
  return arrays_in(memory_[tier], length_[tier], records_[record].at);
}

std::array<float*, kMaxStates> TurnStates::image(std::size_t record) const {
  return arrays_in(image_, records_[record].count, 0);
}

}  // namespace strata
