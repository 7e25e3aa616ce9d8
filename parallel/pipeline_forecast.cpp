#include "parallel/pipeline_forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

namespace strata {
namespace {

using Kind = PipelineCompute::Kind;

std::string describe(const PipelineInstruction& instruction) {
  if (const auto* compute = std::get_if<PipelineCompute>(&instruction)) {
    constexpr std::array kNames = {"forward", "backward", "backward of inputs", "backward of weights"};
    return fmt::format("{} of micro-batch {} in part {}", kNames[static_cast<std::size_t>(compute->kind)], compute->micro_batch,
                       compute->part);
  }
  const auto& t = std::get<PipelineTransfer>(instruction);
  return fmt::format("{} of {} of micro-batch {} {} stage {}", t.is_sent ? "send" : "receive",
                     t.is_gradient ? "gradients" : "activations", t.micro_batch, t.is_sent ? "to" : "from", t.peer);
}

class Run {
 public:
  Run(const PipelineProgram& program, const PipelineCosts& costs, PipelineTransferMode mode)
      : program_(program), costs_(costs), mode_(mode), stages_(program.stages.size()) {
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      stages_[s].ends.resize(program.stages[s].size());
      for (std::size_t i = 0; i < program.stages[s].size(); ++i)
        stages_[s].queues[name_of(program.stages[s][i])].instructions.push_back(i);
    }
  }

  Status finish() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t s = 0; s < stages_.size(); ++s)
        for (auto& [name, queue] : stages_[s].queues)
          while (advance(s, queue)) moved = true;
    }
    for (std::size_t s = 0; s < stages_.size(); ++s)
      for (std::size_t i = 0; i < stages_[s].ends.size(); ++i)
        if (!stages_[s].ends[i])
          return {Code::internal,
                  fmt::format("pipeline stage {} cannot go on at instruction {}: {}", s, i, describe(program_.stages[s][i]))};
    return {};
  }

  double end(std::size_t stage) const {
    double last = 0.0;
    for (const std::optional<double>& end : stages_[stage].ends) last = std::max(last, end.value());
    return last;
  }
  double cost(const PipelineCompute& compute) const {
    const PipelineCosts::Part part =
        costs_.parts.empty() ? PipelineCosts::Part() : costs_.parts[static_cast<std::size_t>(compute.part)];
    switch (compute.kind) {
      case Kind::forward: return part.forward;
      case Kind::backward: return part.backward_inputs + part.backward_weights;
      case Kind::backward_inputs: return part.backward_inputs;
      case Kind::backward_weights: return part.backward_weights;
    }
    return 0.0;
  }

 private:
  struct Queue {
    std::vector<std::size_t> instructions;  // of the stage, in order
    std::size_t next = 0;
    double free = 0.0;
  };
  // Peer, whether it is a gradient, and whether it is sent; of computes peer -1.
  using Name = std::tuple<int, bool, bool>;
  struct Stage {
    std::map<Name, Queue> queues;
    std::vector<std::optional<double>> ends;  // of each instruction
  };
  // Made by a compute: activations (false) or gradients (true) of a micro-batch, by a part; on which stage.
  using Datum = std::tuple<bool, int, int, int>;

  Name name_of(const PipelineInstruction& instruction) const {
    const auto* t = std::get_if<PipelineTransfer>(&instruction);
    if (t == nullptr || mode_ == PipelineTransferMode::blocking) return {-1, false, false};
    return {t->peer, t->is_gradient, t->is_sent};
  }

  bool advance(std::size_t s, Queue& queue) {
    if (queue.next == queue.instructions.size()) return false;
    const std::size_t i = queue.instructions[queue.next];
    const auto* of_compute = std::get_if<PipelineCompute>(&program_.stages[s][i]);
    const std::optional<double> end =
        of_compute != nullptr ? compute(static_cast<int>(s), *of_compute, queue.free)
                              : transfer(static_cast<int>(s), std::get<PipelineTransfer>(program_.stages[s][i]), queue.free);
    if (!end) return false;
    stages_[s].ends[i] = queue.free = *end;
    ++queue.next;
    return true;
  }

  std::optional<double> when(const Datum& datum) const {
    const auto found = there_.find(datum);
    return found == there_.end() ? std::nullopt : std::optional(found->second);
  }

  std::optional<double> compute(int s, const PipelineCompute& c, double ready) {
    std::vector<Datum> inputs;
    if (c.kind == Kind::forward && c.part > 0) inputs.emplace_back(false, c.micro_batch, c.part - 1, s);
    if (c.kind != Kind::forward) inputs.emplace_back(false, c.micro_batch, c.part, s);
    if (c.kind == Kind::backward_weights) inputs.emplace_back(true, c.micro_batch, c.part, s);
    if ((c.kind == Kind::backward || c.kind == Kind::backward_inputs) && c.part + 1 < program_.shape.parts())
      inputs.emplace_back(true, c.micro_batch, c.part + 1, s);
    for (const Datum& input : inputs) {
      const std::optional<double> time = when(input);
      if (!time) return {};
      ready = std::max(ready, *time);
    }
    const double end = ready + cost(c);
    if (c.kind != Kind::backward_weights) there_[{c.kind != Kind::forward, c.micro_batch, c.part, s}] = end;
    return end;
  }

  // Issues it when it is there to be sent; passes it when the peer has issued its side.
  std::optional<double> transfer(int s, const PipelineTransfer& t, double ready) {
    if (t.is_sent) {
      const std::optional<double> made = when({t.is_gradient, t.micro_batch, t.from, s});
      if (!made) return {};
      ready = std::max(ready, *made);
    }
    const auto side = [&](bool is_sent) { return std::tuple(t.is_gradient, t.micro_batch, t.from, is_sent); };
    issued_.emplace(side(t.is_sent), ready);
    const auto other = issued_.find(side(!t.is_sent));
    if (other == issued_.end()) return {};
    const double end = std::max(ready, other->second) + costs_.transfer;
    if (!t.is_sent) there_[{t.is_gradient, t.micro_batch, t.from, s}] = end;
    return end;
  }

  const PipelineProgram& program_;
  const PipelineCosts& costs_;
  const PipelineTransferMode mode_;
  std::vector<Stage> stages_;
  std::map<Datum, double> there_;
  std::map<std::tuple<bool, int, int, bool>, double> issued_;  // of transfers, on each side
};

void count_what_is_held(const std::vector<PipelineInstruction>& instructions, PipelineForecast::Stage& stage) {
  const auto has = [&](Kind kind) {
    return std::any_of(instructions.begin(), instructions.end(), [&](const PipelineInstruction& i) {
      const auto* compute = std::get_if<PipelineCompute>(&i);
      return compute != nullptr && compute->kind == kind;
    });
  };
  const Kind last = has(Kind::backward_weights) ? Kind::backward_weights : Kind::backward;
  const bool keeps = has(last);
  int live = 0;
  std::set<std::tuple<bool, int, int>> received;  // of the part that made it
  for (const PipelineInstruction& instruction : instructions) {
    if (const auto* t = std::get_if<PipelineTransfer>(&instruction)) {
      if (!t->is_sent) received.emplace(t->is_gradient, t->micro_batch, t->from);
      stage.received = std::max(stage.received, static_cast<int>(received.size()));
      continue;
    }
    const auto& c = std::get<PipelineCompute>(instruction);
    if (c.kind == Kind::forward && keeps) stage.live_activations = std::max(stage.live_activations, ++live);
    if (c.kind == last) --live;
    if (c.kind == Kind::forward) received.erase({false, c.micro_batch, c.part - 1});
    if (c.kind == Kind::backward || c.kind == Kind::backward_inputs) received.erase({true, c.micro_batch, c.part + 1});
  }
}

}  // namespace

Result<PipelineForecast> forecast_pipeline(const PipelineProgram& program, const PipelineCosts& costs,
                                           PipelineTransferMode mode) {
  STRATA_CHECK(costs.parts.empty() || std::ssize(costs.parts) == program.shape.parts(), "every part has its costs");
  Run run(program, costs, mode);
  STRATA_RETURN_IF_ERROR(run.finish());
  PipelineForecast forecast;
  for (std::size_t s = 0; s < program.stages.size(); ++s) {
    PipelineForecast::Stage& stage = forecast.stages.emplace_back();
    for (const PipelineInstruction& i : program.stages[s])
      if (const auto* compute = std::get_if<PipelineCompute>(&i)) stage.busy += run.cost(*compute);
    count_what_is_held(program.stages[s], stage);
    forecast.seconds = std::max(forecast.seconds, run.end(s));
  }
  return forecast;
}

}  // namespace strata
