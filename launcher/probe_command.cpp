#include "launcher/probe_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "launcher/bench_device.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "model/text_file.h"
#include "model/transformer.h"
#include "trainer/agree.h"
#include "trainer/gpu_setup.h"
#include "trainer/measured_rates.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

const MeasureOptions kMeasure = {.unused = true, .seconds = 1.0, .alone_seconds = 0.5, .nvme_bytes = std::size_t{512} << 20};

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string output;
};

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  (void)std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M UTC", &parts);
  return text.data();
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "an unknown host";
}

std::string what_computes(const Config& c, const Model& model) {
  return fmt::format("a model of {} parameters, micro-batches of {} x {} tokens, {}",
                     format_quantity(static_cast<double>(model.parameter_count()), ""), c.training.micro_batch_size,
                     c.training.seq_length, to_string(c.precision.compute));
}

std::vector<std::string> known(const Config::Device::Speeds& rates) {
  std::vector<std::string> texts;
  for (const NamedRate& rate : named_rates(rates))
    if (!rate.text.empty()) texts.push_back(fmt::format("{} {}", rate.key, rate.text));
  return texts;
}

std::vector<std::string> header(const Config& c, const Model& model, const MeasuredRates& measured, const Machine& machine,
                                int threads, int ranks) {
  std::vector<std::string> lines = {
      fmt::format("For device.hardware. Measured by `strata probe` (commit {}) on {}, {}:", machine.commit, host_name(), now()),
      fmt::format("{}, {} thread{} a rank, {} rank{} at once{}", machine.cpu, threads, threads == 1 ? "" : "s", ranks,
                  ranks == 1 ? "" : "s", machine.gpu.empty() ? "" : "; " + machine.gpu),
      fmt::format("compute_unit: {}", what_computes(c, model)),
      fmt::format("nvme: {}", fmt::join(c.nvme.path, ", ")),
      "These are one rank's rates while all of its resources are busy.",
      fmt::format("Each alone: {}", fmt::join(known(measured.alone), ", "))};
  for (const LeftOut& left : measured.left_out) lines.push_back(fmt::format("Not measured: {} ({})", left.what, left.why));
  for (const std::string& note : measured.notes) lines.push_back("Note: " + note);
  return lines;
}

void print_table(const Config& c, const Model& model, const MeasuredRates& measured) {
  fmt::print("probe: {}\n\n{:<12}  {:>21}  {:>21}\n", what_computes(c, model), "rate", "alone", "all at once");
  const std::vector<NamedRate> alone = named_rates(measured.alone), together = named_rates(measured.together);
  for (std::size_t i = 0; i < alone.size(); ++i)
    if (!together[i].text.empty()) fmt::print("{:<12}  {:>21}  {:>21}\n", alone[i].key, alone[i].text, together[i].text);
  for (const LeftOut& left : measured.left_out) fmt::print("not measured: {}: {}\n", left.what, left.why);
  for (const std::string& note : measured.notes) fmt::print("note: {}\n", note);
  std::fflush(stdout);
}

// What is measured, and with what.
struct Subject {
  Config config;
  std::unique_ptr<Model> model;
  std::unique_ptr<Device> device;
};

Result<Subject> make_subject(Config config, const Environment& environment) {
  config.device.probe = true;  // so that what contradicts it is found
  Subject subject;
  STRATA_ASSIGN_OR_RETURN(subject.config, resolve(config, environment.world().size()));
  STRATA_ASSIGN_OR_RETURN(const ModelConfig shape, model_config_of(subject.config));
  STRATA_ASSIGN_OR_RETURN(subject.model, make_model(shape));
  HostThreads threads = environment.host_threads(subject.config.device);
  STRATA_ASSIGN_OR_RETURN(subject.device, make_device(subject.config, std::move(threads), environment.local_rank()));
  return subject;
}

Status probe(const Options& options, const Config& written, Environment& environment) {
  const Result<Subject> subject = make_subject(written, environment);
  STRATA_RETURN_IF_ERROR(agree(environment.world(), subject.status(), "preparing to measure"));
  const auto& [config, model, device] = *subject;
  const int threads = device->threads();
  const Machine machine = describe_machine(*device);
  MeasureOptions measure = kMeasure;
  measure.ranks_on_machine = environment.ranks_on_machine();
  STRATA_ASSIGN_OR_RETURN(const MeasuredRates measured,
                          measure_rates(config, *model, *device, environment.world(), environment.host_memory(), measure));
  if (!environment.leader()) return {};
  print_machine(machine, threads);
  print_table(config, *model, measured);
  if (options.output.empty()) return {};
  return write_text_file(options.output, hardware_file(measured.together, header(config, *model, measured, machine, threads,
                                                                                 environment.world().size().v)));
}

int run_probe(const Options& options) {
  const Result<Config> config = load_config(options.config, options.overrides);
  // Before MPI starts, every rank has the same error; only one of them should say so.
  if (!config.ok()) return first_of_launch() ? finish_command(config.status()) : exit_code(config.status());
  const Result<std::unique_ptr<Environment>> environment = Environment::from_launcher(config->parallel);
  if (!environment.ok()) return finish_command(environment.status());
  Status status;
  try {
    status = probe(options, *config, **environment);
  } catch (const StatusError& error) {
    status = error.status();
  } catch (const std::exception& error) {
    status = Status(Code::internal, error.what());
  }
  if (!status.ok() && !status.is_on_every_rank()) (*environment)->world().abort(status.message());
  return finish_rank(status, **environment);
}

}  // namespace

void add_probe_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand(
      "probe", "Measure what a plan decides by: copies, updates, drives and compute, each alone and all at once");
  const auto options = std::make_shared<Options>();
  command->add_option("config", options->config, "YAML file (docs/config.md lists every key)")
      ->required()
      ->type_name("CONFIG.yaml");
  command->add_option("overrides", options->overrides, "values that replace the file's")->type_name("section.key=value");
  command->add_option("--output", options->output, "writes a file for device.hardware with the rates of all at once")
      ->type_name("FILE");
  command->callback([options, &action] { action = [options] { return run_probe(*options); }; });
}

}  // namespace strata
