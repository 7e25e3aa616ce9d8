// What a pipeline's program takes, where a transfer begins when it was issued on both sides. Pure; no clock.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/pipeline_schedule.h"

namespace strata {

// Seconds.
struct PipelineCosts {
  struct Part {
    double forward = 1.0, backward_inputs = 1.0, backward_weights = 1.0;  // of one micro-batch; backward is the sum of two
  };
  std::vector<Part> parts;  // of each part; empty: all as the default
  double transfer = 0.0;
};

enum class PipelineTransferMode : std::uint8_t {
  queues,  // a stage's computes, and its transfers over each link in each direction, are in order; and wait for what they need
  blocking,  // all of a stage's instructions are
};

struct PipelineForecast {
  double seconds = 0.0;
  struct Stage {
    double busy = 0.0;  // seconds of compute
    // Chunks times micro-batches, at most at a time: with a forward and not all of their backward behind them; and what was
    // received and is not used up yet, which needs a buffer.
    int live_activations = 0;
    int received = 0;
  };
  std::vector<Stage> stages;
};

// Error internal: the program cannot go on; names the first stage that waits, and for what. Every compute's inputs, and every
// transfer's data, must be there when it is its turn.
Result<PipelineForecast> forecast_pipeline(const PipelineProgram& program, const PipelineCosts& costs,
                                           PipelineTransferMode mode);

}  // namespace strata
