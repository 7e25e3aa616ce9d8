// What a run says about itself: one JSON object a step in metrics.jsonl, and lines for people.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nvme/record_file.h"
#include "runtime/gpu/readings.h"
#include "runtime/status.h"
#include "trainer/engine.h"

namespace strata {

struct StepMetrics {
  std::int64_t step = 0;
  double loss = 0.0;
  double grad_norm = 0.0;
  double clip = 1.0;
  double lr = 0.0;
  std::int64_t tokens = 0;  // so far
  double step_seconds = 0.0;
  double tokens_per_second = 0.0;
  Guess guess = Guess::none;
  std::optional<double> validation_loss;
  BusySeconds busy;  // of this step and rank; of a GPU's streams, what was finished by its end
  std::size_t gpu_peak = 0, cpu_peak = 0, nvme_bytes = 0;  // of this rank, so far
  std::optional<GpuReadings> gpu;                          // of rank 0's GPU, about once a second
  std::vector<PathTraffic> nvme;                           // of this step and rank; empty: no state on NVMe

  // The resource that worked longest in this step, and its seconds: no step can be shorter.
  struct Bound {
    const char* resource = "compute";
    double seconds = 0.0;
  };
  Bound bound() const;
};

std::string to_json(const StepMetrics& metrics);

// Appends to <folder>/metrics.jsonl. Resuming drops the lines of steps that will be done again.
class MetricsFile {
 public:
  static Result<MetricsFile> open(const std::string& folder, std::int64_t last_step);
  MetricsFile(MetricsFile&&) noexcept = default;
  MetricsFile& operator=(MetricsFile&&) noexcept = default;
  Status append(const StepMetrics& metrics);

 private:
  MetricsFile() = default;
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// Whether a person watches standard output: also under mpirun, which gives its ranks a terminal of their own.
bool output_is_terminal();

// A line that rewrites itself on a terminal, plain lines elsewhere.
class ProgressPrinter {
 public:
  // terminal: rewrite one line. total_steps is for the time left.
  ProgressPrinter(std::FILE* out, bool terminal, std::int64_t total_steps, std::int64_t log_interval)
      : out_(out), terminal_(terminal), total_steps_(total_steps), log_interval_(log_interval) {}
  ~ProgressPrinter() { end_line(); }
  void step(const StepMetrics& metrics);
  // A line of its own.
  void note(const std::string& text);
  void end_line();

 private:
  std::FILE* out_;
  bool terminal_;
  std::int64_t total_steps_;
  std::int64_t log_interval_;
  bool open_line_ = false;
  double smooth_seconds_ = 0.0;
};

}  // namespace strata
