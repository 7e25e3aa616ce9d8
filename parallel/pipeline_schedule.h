// What the stages of a pipeline do, in which order: values that are functions of the shape alone, so that they can be checked
// before anything runs. Sources: GPipe, Huang et al. 2019, arXiv 1811.06965; 1F1B, PipeDream-Flush of Narayanan et al. 2021,
// arXiv 2006.09503; interleaved 1F1B, Narayanan et al. 2021, arXiv 2104.04473, section 2.2; ZB-H1, Qi et al. 2024, arXiv
// 2401.10241, section 2.
//
// A model is cut into `stages * chunks` parts; stage s has the parts c * stages + s, its chunks c. Micro-batches pass the parts
// upwards in their forward and downwards in their backward. On every part and in every schedule forwards run in the order of
// the micro-batches, and so do backwards (gradients are added up in that order).
//
// Ordering. The instructions of all stages are drawn from one sequence: every compute in it comes behind the transfers that it
// needs, every transfer behind the compute whose result it carries. So whoever runs each stage's list in order cannot deadlock,
// even when a send waits for its receive: of the instructions that are not done, the first one in that sequence can always run.
// It also holds where a stage's computes, and its transfers over each link in each direction, are queues beside each other,
// which is how nothing waits for what it does not need.
#pragma once

#include <compare>
#include <cstdint>
#include <variant>
#include <vector>

#include "runtime/status.h"

namespace strata {

enum class PipelineSchedule : std::uint8_t {
  gpipe,        // all forwards, then all backwards
  one_f_one_b,  // as few micro-batches between their forward and backward as keep every stage busy
  interleaved,  // the same with several chunks a stage, for shorter bubbles
  zb_h1,        // 1F1B whose gradients of weights fill bubbles, at the memory of 1F1B's first stage
  forward       // no backwards: evaluation
};
const char* to_string(PipelineSchedule schedule);

struct PipelineShape {
  int stages = 1;
  int micro_batches = 1;
  int chunks = 1;  // of each stage; others than 1 need a schedule that is interleaved, or forward
  int parts() const { return stages * chunks; }
  int part(int stage, int chunk) const { return chunk * stages + stage; }
  int stage_of(int part) const { return part % stages; }
};

struct PipelineCompute {
  enum class Kind : std::uint8_t {
    forward,
    backward,          // gradients of inputs and weights
    backward_inputs,   // of zb_h1: of inputs alone
    backward_weights,  // of zb_h1: the rest; nobody waits for it
  };
  Kind kind = Kind::forward;
  int micro_batch = 0;
  int part = 0;
  auto operator<=>(const PipelineCompute&) const = default;
};

// What passes between two parts that lie on different stages.
struct PipelineTransfer {
  bool is_gradient = false;  // else activations
  int micro_batch = 0;
  int from = 0;          // the part whose compute made it; to the next one, gradients to the one before
  bool is_sent = false;  // else received
  int peer = 0;          // the other stage
  int to() const { return is_gradient ? from - 1 : from + 1; }
  auto operator<=>(const PipelineTransfer&) const = default;
};
using PipelineInstruction = std::variant<PipelineCompute, PipelineTransfer>;

struct PipelineProgram {
  PipelineShape shape;
  std::vector<std::vector<PipelineInstruction>> stages;
};

// Error invalid_config: a number that is not positive, or chunks of a schedule that has none.
Status check_pipeline(PipelineSchedule schedule, const PipelineShape& shape);

// After check_pipeline(). Interleaved, micro-batches that are no multiple of the stages take as long as the next multiple.
PipelineProgram make_pipeline(PipelineSchedule schedule, const PipelineShape& shape);

}  // namespace strata
