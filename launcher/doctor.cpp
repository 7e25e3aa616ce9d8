#include "launcher/doctor.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/doctor_checks.h"
#include "launcher/machine.h"

namespace strata {
namespace {

// Appends what `examine` finds; an examination that fails is a finding too.
template <class Examine>
void append(std::vector<Finding>& findings, const char* topic, const Examine& examine) {
  try {
    for (Finding& finding : examine()) findings.push_back(std::move(finding));
  } catch (const std::exception& error) {
    findings.push_back({topic, FindingState::absent, error.what(), "it could not be examined"});
  }
}

void print_text(const std::vector<Finding>& findings) {
  std::size_t width = 0;
  for (const Finding& f : findings) width = std::max(width, f.topic.size());
  int lacks = 0;
  for (const Finding& f : findings) {
    const bool present = f.state == FindingState::present;
    lacks += present ? 0 : 1;
    fmt::print("{}  {:<{}}  {}\n", present ? "  ok" : "lack", f.topic, width, f.found);
    if (!present) fmt::print("      {:<{}}  -> {}\n", "", width, f.costs);
  }
  fmt::print("\n{}\n",
             lacks == 0 ? "Nothing is missing." : fmt::format("{} missing; training works without what is listed.", lacks));
}

void print_json(const std::vector<Finding>& findings) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Finding& f : findings) {
    nlohmann::ordered_json j = {{"topic", f.topic}, {"present", f.state == FindingState::present}, {"found", f.found}};
    if (!f.costs.empty()) j["costs"] = f.costs;
    list.push_back(std::move(j));
  }
  // What the system says need not be UTF-8.
  fmt::print("{}\n", nlohmann::ordered_json{{"findings", list}}.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

int run_doctor(const DoctorOptions& options) {
  std::vector<Finding> findings;
  append(findings, "processor", examine_processor);
  append(findings, "GPU", examine_gpus);
  append(findings, "libraries", examine_libraries);
  append(findings, "I/O", [&] { return examine_io(options.paths); });
  options.json ? print_json(findings) : print_text(findings);
  return 0;
}

void add_doctor_command(CLI::App& app, std::function<int()>& action) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* doctor = app.add_subcommand("doctor", "What this machine offers, what is missing, and what each lack costs");
  doctor->add_flag("--json", options->json, "One JSON object on stdout instead of text");
  doctor->add_option("paths", options->paths, "Folders to try direct I/O on")->capture_default_str();
  doctor->callback([options, &action] { action = [options] { return run_doctor(*options); }; });
}

}  // namespace strata
