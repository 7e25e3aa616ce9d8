#include "trainer/metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/text_file.h"
#include "parallel/mpi_communicator.h"

namespace strata {

StepMetrics::Bound StepMetrics::bound() const {
  Bound best{"compute", busy.compute};
  for (const Bound& other :
       {Bound{"communication", busy.communication}, Bound{"cpu update", busy.cpu_update}, Bound{"gpu update", busy.gpu_update},
        Bound{"nvme read", busy.nvme_read}, Bound{"nvme write", busy.nvme_write}, Bound{"gpu to cpu", busy.gpu_to_cpu},
        Bound{"cpu to gpu", busy.cpu_to_gpu}})
    if (other.seconds > best.seconds) best = other;
  return best;
}

namespace {

nlohmann::ordered_json to_json(const GpuReadings& r) {
  nlohmann::ordered_json j = nlohmann::ordered_json::object();
  const auto add = [&j](const char* key, const auto& reading) {
    if (reading) j[key] = *reading;
  };
  add("utilization", r.utilization);
  add("memory_utilization", r.memory_utilization);
  add("memory_used_bytes", r.memory_used_bytes);
  add("power_watts", r.power_watts);
  add("temperature_celsius", r.temperature_celsius);
  add("sm_clock_mhz", r.sm_clock_mhz);
  add("throttled", r.throttled);
  return j;
}

nlohmann::ordered_json to_json(const LatencySummary& s) {
  return {{"transfers", s.count}, {"bytes", s.bytes}, {"p50_seconds", s.p50}, {"p99_seconds", s.p99}, {"max_seconds", s.max}};
}

}  // namespace

std::string to_json(const StepMetrics& m) {
  nlohmann::ordered_json j = {
      {"step", m.step}, {"loss", m.loss},     {"grad_norm", m.grad_norm},       {"clip", m.clip},
      {"lr", m.lr},     {"tokens", m.tokens}, {"step_seconds", m.step_seconds}, {"tokens_per_second", m.tokens_per_second}};
  if (m.guess != Guess::none) j["speculation"] = to_string(m.guess);
  if (m.validation_loss) j["validation_loss"] = *m.validation_loss;
  j["busy_seconds"] = {{"compute", m.busy.compute},       {"communication", m.busy.communication},
                       {"cpu_update", m.busy.cpu_update}, {"gpu_update", m.busy.gpu_update},
                       {"nvme_read", m.busy.nvme_read},   {"nvme_write", m.busy.nvme_write},
                       {"gpu_to_cpu", m.busy.gpu_to_cpu}, {"cpu_to_gpu", m.busy.cpu_to_gpu}};
  j["bound"] = {{"resource", m.bound().resource}, {"seconds", m.bound().seconds}};
  j["peak_bytes"] = {{"gpu", m.gpu_peak}, {"cpu", m.cpu_peak}, {"nvme", m.nvme_bytes}};
  for (const PathTraffic& t : m.nvme) j["nvme"][t.path] = {{"read", to_json(t.read)}, {"write", to_json(t.write)}};
  if (m.gpu) j["gpu"] = to_json(*m.gpu);
  return j.dump();
}

Result<MetricsFile> MetricsFile::open(const std::string& folder, std::int64_t last_step) {
  MetricsFile metrics;
  metrics.path_ = folder + "/metrics.jsonl";
  std::string kept;
  if (std::ifstream old(metrics.path_); old) {
    for (std::string line; std::getline(old, line);) {
      const auto j = nlohmann::json::parse(line, nullptr, false);  // a killed process may leave half a line
      if (!j.is_object() || !j.contains("step") || !j["step"].is_number_integer() || j["step"].get<std::int64_t>() > last_step)
        continue;
      kept += line + "\n";
    }
    if (old.bad()) return Status::from_errno("read", metrics.path_, errno);
  }
  // Aside, then renamed: a crash or a full disk here must not cost the history.
  const std::string aside = metrics.path_ + ".tmp";
  STRATA_RETURN_IF_ERROR(write_text_file(aside, kept));
  if (std::rename(aside.c_str(), metrics.path_.c_str()) != 0)
    return Status::from_errno("rename", aside + " -> " + metrics.path_, errno);
  metrics.file_.reset(std::fopen(metrics.path_.c_str(), "a"));
  if (!metrics.file_) return Status::from_errno("open", metrics.path_, errno);
  return metrics;
}

Status MetricsFile::append(const StepMetrics& m) {
  const std::string line = to_json(m) + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0)
    return Status::from_errno("write", path_, errno);
  return {};
}

namespace {

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds);
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

}  // namespace

bool output_is_terminal() {
  if (isatty(STDOUT_FILENO) == 0) return false;
  if (!launched_under_mpi()) return true;
  std::error_code error;
  const auto parent = std::filesystem::read_symlink("/proc/" + std::to_string(getppid()) + "/fd/1", error);
  return !error && parent.string().starts_with("/dev/") && parent != "/dev/null";
}

void ProgressPrinter::step(const StepMetrics& m) {
  smooth_seconds_ = smooth_seconds_ == 0.0 ? m.step_seconds : 0.9 * smooth_seconds_ + 0.1 * m.step_seconds;
  const bool due = log_interval_ <= 1 || m.step % log_interval_ == 0 || m.step == total_steps_ || m.validation_loss;
  if (!terminal_ && !due) return;
  const StepMetrics::Bound bound = m.bound();
  std::string line = fmt::format("step {}/{}  loss {:.4f}  norm {:.3f}  lr {:.2e}  {:.0f} tok/s", m.step, total_steps_, m.loss,
                                 m.grad_norm, m.lr, m.tokens_per_second);
  if (bound.seconds > 0) line += fmt::format("  {:.2f}x {}", m.step_seconds / bound.seconds, bound.resource);
  line += fmt::format("  gpu {} cpu {}", format_bytes(m.gpu_peak), format_bytes(m.cpu_peak));
  if (m.nvme_bytes > 0) line += " nvme " + format_bytes(m.nvme_bytes);
  line += "  left " + duration(smooth_seconds_ * static_cast<double>(total_steps_ - m.step));
  if (m.validation_loss) line += fmt::format("  validation {:.4f}", *m.validation_loss);
  if (terminal_) {
    std::fprintf(out_, "\r\033[K%s", line.c_str());
    open_line_ = true;
    if (m.validation_loss) end_line();
  } else {
    std::fprintf(out_, "%s\n", line.c_str());
  }
  std::fflush(out_);
}

void ProgressPrinter::note(const std::string& text) {
  end_line();
  std::fprintf(out_, "%s\n", text.c_str());
  std::fflush(out_);
}

void ProgressPrinter::end_line() {
  if (!open_line_) return;
  std::fputc('\n', out_);
  open_line_ = false;
}

}  // namespace strata
