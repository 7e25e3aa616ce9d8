#include "trainer/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace strata {
namespace {

constexpr int kWarmUp = 2;
constexpr std::size_t kKept = 1000;

double busy_of(const BusySeconds& busy, Resource resource) {
  switch (resource) {
    case Resource::compute: return busy.compute;
    case Resource::gpu_to_cpu: return busy.gpu_to_cpu;
    case Resource::cpu_to_gpu: return busy.cpu_to_gpu;
    case Resource::cpu_update: return busy.cpu_update;
    case Resource::gpu_update: return busy.gpu_update;
    case Resource::nvme_read: return busy.nvme_read;
    case Resource::nvme_write: return busy.nvme_write;
  }
  return 0.0;
}

std::string row(const std::string& name, const std::string& planned, const std::string& measured, const std::string& note) {
  return fmt::format("{:<16}{:>12}{:>12}{}{}\n", name, planned, measured, note.empty() ? "" : "  ", note);
}

std::string seconds(double s) { return fmt::format("{:.4g} s", s); }

}  // namespace

void RunReport::add(const StepMetrics& metrics) {
  if (seen_ < kWarmUp) {
    ++seen_;
    return;
  }
  steps_.push_back(metrics);
  if (steps_.size() > kKept) steps_.pop_front();
}

std::string RunReport::format(const Plan& plan) const {
  if (steps_.empty()) return "";
  const auto median = [&](const auto& value) {
    std::vector<double> all;
    for (const StepMetrics& m : steps_) all.push_back(value(m));
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
  };
  const auto guessed = [&](Guess guess) {
    return static_cast<std::size_t>(
        std::count_if(steps_.begin(), steps_.end(), [guess](const StepMetrics& m) { return m.guess == guess; }));
  };
  const bool mostly_waits = 2 * guessed(Guess::none) > steps_.size();
  const std::optional<StepForecast>& planned_step =
      mostly_waits && plan.update.waiting_forecast ? plan.update.waiting_forecast : plan.update.forecast;
  const StepForecast* const forecast = planned_step ? &*planned_step : nullptr;
  const auto planned = [&](double value) { return forecast != nullptr ? seconds(value) : "-"; };
  std::string text = fmt::format("\n{:<16}{:>12}{:>12}  median of the last {} step{}\n", "", "planned", "measured",
                                 steps_.size(), steps_.size() == 1 ? "" : "s");
  const double step = median([](const StepMetrics& m) { return m.step_seconds; });
  text += row("step", planned(forecast != nullptr ? forecast->step_seconds : 0.0), seconds(step),
              forecast != nullptr ? fmt::format("{:.2f} x planned", step / forecast->step_seconds) : "");
  for (std::size_t r = 0; r < kResources; ++r) {
    const auto resource = static_cast<Resource>(r);
    const double busy = median([resource](const StepMetrics& m) { return busy_of(m.busy, resource); });
    const double wanted = forecast != nullptr ? forecast->busy[r] : 0.0;
    if (busy > 0.0 || wanted > 0.0) text += row(to_string(resource), planned(wanted), seconds(busy), "");
  }
  const double sent = median([](const StepMetrics& m) { return m.busy.communication; });
  if (sent > 0.0) text += row("communication", "-", seconds(sent), "");
  if (plan.update.speculating > 0)
    text += fmt::format("updates began before the norm in {} of {} steps, and {} were done again\n",
                        guessed(Guess::kept) + guessed(Guess::dropped), steps_.size(), guessed(Guess::dropped));
  const StepMetrics& last = steps_.back();
  text += row("gpu tier", format_bytes(plan.gpu.high_water), format_bytes(last.gpu_peak), "");
  text += row("cpu tier", format_bytes(plan.cpu.high_water), format_bytes(last.cpu_peak), "");
  if (plan.nvme.bytes() > 0) text += row("nvme", format_bytes(plan.nvme.bytes()), format_bytes(last.nvme_bytes), "");
  return text;
}

}  // namespace strata
