#include "parallel/pipeline_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace strata {
namespace {

using Kind = PipelineCompute::Kind;
using Computes = std::vector<PipelineCompute>;

// Times that order the sequence: backwards take twice as long as forwards, and half of a backward is for the inputs.
int duration(Kind kind) { return kind == Kind::backward ? 2 : 1; }

// As many micro-batches as stages pass a chunk, then the next one; backwards from the last chunk to the first.
Computes in_rounds(const PipelineShape& shape, int stage, Kind kind) {
  Computes computes;
  for (int first = 0; first < shape.micro_batches; first += shape.stages)
    for (int k = 0; k < shape.chunks; ++k)
      for (int i = first; i < std::min(first + shape.stages, shape.micro_batches); ++i)
        computes.push_back({kind, i, shape.part(stage, kind == Kind::forward ? k : shape.chunks - 1 - k)});
  return computes;
}

// warm_up forwards, then one forward and one backward in turn, then the backwards that are left.
Computes in_turn(const Computes& forwards, const Computes& backwards, int warm_up) {
  const auto n = static_cast<std::ptrdiff_t>(forwards.size());
  const std::ptrdiff_t first = std::min<std::ptrdiff_t>(n, warm_up);
  Computes computes(forwards.begin(), forwards.begin() + first);
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    if (first + i < n) computes.push_back(forwards[static_cast<std::size_t>(first + i)]);
    computes.push_back(backwards[static_cast<std::size_t>(i)]);
  }
  return computes;
}

Computes one_forward_one_backward(const PipelineShape& shape, int stage) {
  const int behind = shape.stages - stage - 1;
  return in_turn(in_rounds(shape, stage, Kind::forward), in_rounds(shape, stage, Kind::backward),
                 shape.chunks == 1 ? behind : 2 * behind + (shape.chunks - 1) * shape.stages);
}

// 1F1B, where stage s is s gradients of weights late: so every stage holds as much as the first one, and those that are left at
// the end fill what it waits there.
Computes zb_h1(const PipelineShape& shape, int stage) {
  const int warm_up = std::min(shape.micro_batches, shape.stages - stage - 1);
  Computes computes;
  int forwards = 0, weights = 0;
  for (; forwards < warm_up; ++forwards) computes.push_back({Kind::forward, forwards, stage});
  for (int i = 0; i < shape.micro_batches; ++i) {
    if (forwards < shape.micro_batches) computes.push_back({Kind::forward, forwards++, stage});
    computes.push_back({Kind::backward_inputs, i, stage});
    if (i >= stage) computes.push_back({Kind::backward_weights, weights++, stage});
  }
  for (; weights < shape.micro_batches; ++weights) computes.push_back({Kind::backward_weights, weights, stage});
  return computes;
}

Computes computes_of(PipelineSchedule schedule, const PipelineShape& shape, int stage) {
  switch (schedule) {
    case PipelineSchedule::gpipe:
      return in_turn(in_rounds(shape, stage, Kind::forward), in_rounds(shape, stage, Kind::backward), shape.micro_batches);
    case PipelineSchedule::forward: return in_rounds(shape, stage, Kind::forward);
    case PipelineSchedule::zb_h1: return zb_h1(shape, stage);
    case PipelineSchedule::one_f_one_b:
    case PipelineSchedule::interleaved: break;
  }
  return one_forward_one_backward(shape, stage);
}

// When each compute ends if only its stage's order and its inputs hold it up.
class IdealTimes {
 public:
  IdealTimes(const PipelineShape& shape, const std::vector<Computes>& stages) : shape_(shape) {
    std::vector<std::size_t> next(stages.size(), 0);
    std::vector<int> free(stages.size(), 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t s = 0; s < stages.size(); ++s)
        for (; next[s] < stages[s].size(); ++next[s], moved = true) {
          const PipelineCompute& compute = stages[s][next[s]];
          const int ready = ready_at(compute);
          if (ready < 0) break;
          free[s] = ends_[compute] = std::max(free[s], ready) + duration(compute.kind);
        }
    }
    for (std::size_t s = 0; s < stages.size(); ++s) STRATA_CHECK(next[s] == stages[s].size(), "inputs come before their use");
  }
  int end(const PipelineCompute& compute) const {
    const auto found = ends_.find(compute);
    return found == ends_.end() ? -1 : found->second;
  }

 private:
  int ready_at(const PipelineCompute& compute) const {
    const int forward = end({Kind::forward, compute.micro_batch, compute.part});
    switch (compute.kind) {
      case Kind::forward: return compute.part == 0 ? 0 : end({Kind::forward, compute.micro_batch, compute.part - 1});
      case Kind::backward_weights: return end({Kind::backward_inputs, compute.micro_batch, compute.part});
      case Kind::backward:
      case Kind::backward_inputs: break;
    }
    if (forward < 0 || compute.part == shape_.parts() - 1) return forward;
    const int above = end({compute.kind, compute.micro_batch, compute.part + 1});
    return above < 0 ? -1 : std::max(forward, above);
  }

  const PipelineShape& shape_;
  std::map<PipelineCompute, int> ends_;
};

// An instruction and its place in the sequence: at one time, transfers before the computes that begin, all of them in one
// order.
struct Placed {
  std::tuple<int, bool, bool, int, int> place;
  PipelineInstruction instruction;
};

Placed placed(int time, const PipelineTransfer& transfer) {
  return {{time, false, transfer.is_gradient, transfer.micro_batch, transfer.from}, transfer};
}

}  // namespace

const char* to_string(PipelineSchedule schedule) {
  switch (schedule) {
    case PipelineSchedule::gpipe: return "gpipe";
    case PipelineSchedule::one_f_one_b: return "1f1b";
    case PipelineSchedule::interleaved: return "interleaved";
    case PipelineSchedule::zb_h1: return "zb-h1";
    case PipelineSchedule::forward: return "forward";
  }
  return "?";
}

Status check_pipeline(PipelineSchedule schedule, const PipelineShape& shape) {
  for (const auto& [name, n] :
       {std::pair("stages", shape.stages), {"micro-batches", shape.micro_batches}, {"chunks", shape.chunks}})
    if (n < 1) return {Code::invalid_config, fmt::format("a pipeline of {} {}; give at least 1", n, name)};
  const bool has_chunks = schedule == PipelineSchedule::interleaved || schedule == PipelineSchedule::forward;
  if (shape.chunks > 1 && !has_chunks)
    return {Code::invalid_config, fmt::format("the schedule {} has one chunk a stage, not {}; interleaved has several",
                                              to_string(schedule), shape.chunks)};
  return {};
}

PipelineProgram make_pipeline(PipelineSchedule schedule, const PipelineShape& shape) {
  STRATA_CHECK(check_pipeline(schedule, shape).ok(), "the shape of a pipeline is checked");
  // Those that do not exist fill up the last round, where stages wait for each other in a circle.
  PipelineShape whole = shape;
  if (shape.chunks > 1) whole.micro_batches = (shape.micro_batches + shape.stages - 1) / shape.stages * shape.stages;
  std::vector<Computes> stages;
  for (int s = 0; s < shape.stages; ++s) stages.push_back(computes_of(schedule, whole, s));
  const IdealTimes times(whole, stages);

  std::vector<std::vector<Placed>> sequences(stages.size());
  for (int s = 0; s < shape.stages; ++s) {
    for (const PipelineCompute& compute : stages[static_cast<std::size_t>(s)]) {
      if (compute.micro_batch >= shape.micro_batches) continue;
      const int end = times.end(compute);
      sequences[static_cast<std::size_t>(s)].push_back({{end - duration(compute.kind), true, false, 0, 0}, compute});
      if (compute.kind == Kind::backward_weights) continue;
      PipelineTransfer transfer{
          .is_gradient = compute.kind != Kind::forward, .micro_batch = compute.micro_batch, .from = compute.part};
      if (transfer.to() < 0 || transfer.to() == shape.parts()) continue;
      const int to = shape.stage_of(transfer.to());
      if (to == s) continue;
      transfer.is_sent = true, transfer.peer = to;
      sequences[static_cast<std::size_t>(s)].push_back(placed(end, transfer));
      transfer.is_sent = false, transfer.peer = s;
      sequences[static_cast<std::size_t>(to)].push_back(placed(end, transfer));
    }
  }
  PipelineProgram program{.shape = shape, .stages = {}};
  for (std::vector<Placed>& sequence : sequences) {
    std::sort(sequence.begin(), sequence.end(), [](const Placed& a, const Placed& b) { return a.place < b.place; });
    auto& instructions = program.stages.emplace_back();
    for (const Placed& each : sequence) instructions.push_back(each.instruction);
  }
  return program;
}

}  // namespace strata
