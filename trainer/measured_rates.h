// The rates of the machine that a run or plan is on (device.hardware: probe, `strata probe`), and the file that keeps them for
// another one (device.hardware: FILE).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "model/unit.h"
#include "parallel/communicator.h"
#include "runtime/status.h"
#include "runtime/stream.h"
#include "trainer/config.h"
#include "trainer/probe.h"

namespace strata {

struct MeasureOptions {
  bool unused = false;                              // also what the configuration has no use for
  double seconds = 1.0;                             // of all at once; filling and warming up come before
  double alone_seconds = 0.0;                       // of each alone; 0: is not measured
  std::size_t nvme_bytes = std::size_t{256} << 20;  // of a rank's scratch files
  int ranks_on_machine = 1;                         // that may take turns at a drive
  std::shared_ptr<const Optimizer> optimizer = {};  // instead of config.optimizer
};

// By the keys of device.rates; 0: not measured. Rounded to four digits.
struct MeasuredRates {
  Config::Device::Speeds alone, together;
  std::vector<LeftOut> left_out;  // of this rank
  std::vector<std::string> notes;
  // "measured, all at once: cpu_update 510 M parameters/s, ...; not measured: ...".
  std::string line() const;
};

// Collective: all ranks measure at the same time and get the smallest rate of each, so that all plan alike. config: resolved.
// Creates the folders of nvme.path and leaves nothing there. Errors: those of Probe::create, the same on every rank.
Result<MeasuredRates> measure_rates(const Config& config, const Model& model, Device& device, Communicator& comm,
                                    std::size_t host_memory, const MeasureOptions& options = {});

// Collective: of each rate the smallest of the ranks that know it.
Result<Rates> smallest_rates(Communicator& comm, const Rates& mine);

// `config` with `rates` where device.rates says nothing, and nothing left to measure.
Config with_rates(const Config& config, const Config::Device::Speeds& rates);

// One rate for people; empty: unknown.
struct NamedRate {
  const char* key;  // of device.rates
  std::string text;
};
std::vector<NamedRate> named_rates(const Config::Device::Speeds& rates);

// A file for device.hardware that gives exactly `rates`. `header`: lines of a comment that says what was measured.
std::string hardware_file(const Config::Device::Speeds& rates, const std::vector<std::string>& header);

}  // namespace strata
