// Where training tokens come from. Sampling is a pure function of (seed, sample number): the state of a run's data is
// (seed, samples consumed), whatever the world size. Implementations are thread-safe (const).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/status.h"

namespace strata {

class DataSource {
 public:
  virtual ~DataSource() = default;
  // Sample number k of the run (k counts samples consumed, over all epochs): `out` receives T + 1 tokens; the first T are
  // inputs, the last T targets. out.size() - 1 is the T the source was made for.
  virtual Status sample(std::uint64_t k, std::span<std::int32_t> out) const = 0;
  // Samples of one epoch; after them the order is shuffled anew.
  virtual std::uint64_t samples_per_epoch() const = 0;
  // Smallest vocabulary that holds every token (for a check against the model before training); 0: unknown.
  virtual std::int64_t vocab_size() const = 0;
};

}  // namespace strata
