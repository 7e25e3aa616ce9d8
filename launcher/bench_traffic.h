// What memory gives an update in place, as a measurement that benchmarks interleave with their own: on the host the reads and
// writes of AdamW's arrays without the arithmetic, on a GPU the copy bandwidth of its memory.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "launcher/bench_copy.h"
#include "optim/update_slice.h"

namespace strata {

// Elements of an array so that its traffic is whole chunks.
std::int64_t whole_traffic_chunks(std::int64_t n);

class TrafficMeter {
 public:
  // slice: AdamW's, whose arrays have whole_traffic_chunks(slice.n) elements and live as long as the meter, as the bench does.
  // On a GPU it copies as much as two of them. Throws StatusError.
  TrafficMeter(Workbench& bench, const UpdateSlice& slice);

  void sample();
  // Bytes a second, one measurement a kind, without bounds.
  std::vector<Measurement> measurements() const;

 private:
  std::optional<CopyMeter> copy_;  // on a GPU
  double bytes_ = 0.0;
  std::vector<StreamTimer> timers_;
  std::vector<Measurement> measurements_;
};

}  // namespace strata
