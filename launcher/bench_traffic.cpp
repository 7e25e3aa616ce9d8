#include "launcher/bench_traffic.h"

#include "runtime/kernels/traffic.h"

namespace strata {

using kernels::UpdateStores;
using kernels::UpdateTraffic;

std::int64_t whole_traffic_chunks(std::int64_t n) {
  return (n + UpdateTraffic::kChunk - 1) / UpdateTraffic::kChunk * UpdateTraffic::kChunk;
}

TrafficMeter::TrafficMeter(Workbench& bench, const UpdateSlice& slice) {
  if (bench.device().has_separate_memory()) {
    copy_.emplace(bench, static_cast<std::size_t>(slice.n) * 2 * sizeof(float));
    return;
  }
  const UpdateTraffic traffic = {.updated = {slice.p, slice.states[0], slice.states[1]},
                                 .read = slice.g,
                                 .written = slice.p16,
                                 .n = whole_traffic_chunks(slice.n)};
  bytes_ = static_cast<double>(traffic.n) * (slice.p16 != nullptr ? 30.0 : 28.0);
  if (bench.dry()) return;
  const StreamRef stream = bench.stream();
  for (const UpdateStores stores : kernels::available_update_stores()) {
    timers_.emplace_back(std::vector{stream}, [=] {
      stream.enqueue("traffic", [=, &pool = stream.device().pool()] {
        kernels::move_update_traffic(stores, traffic, pool);
        return Status();
      });
    });
    measurements_.push_back({.name = std::string("the same bytes, ") + kernels::to_string(stores), .unit = "B/s"});
  }
}

void TrafficMeter::sample() {
  if (copy_) return copy_->sample();
  for (std::size_t kind = 0; kind < timers_.size(); ++kind)
    measurements_[kind].samples.push_back(bytes_ / timers_[kind].sample());
}

std::vector<Measurement> TrafficMeter::measurements() const { return copy_ ? copy_->measurements() : measurements_; }

}  // namespace strata
