#include "trainer/measured_rates.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <span>

#include "runtime/quantity.h"
#include "trainer/agree.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using Speeds = Config::Device::Speeds;

// Folders that were not there before, until destruction.
class ScratchFolders {
 public:
  ~ScratchFolders() {
    std::error_code ignored;  // not empty: another rank is still there, or it is somebody else's by now
    for (auto path = made_.rbegin(); path != made_.rend(); ++path) fs::remove(*path, ignored);
  }
  Status make(const std::string& folder) {
    std::error_code error;
    std::vector<fs::path> missing;
    for (fs::path path = folder; !path.empty() && !fs::exists(path, error); path = path.parent_path()) missing.push_back(path);
    made_.insert(made_.end(), missing.rbegin(), missing.rend());
    fs::create_directories(folder, error);
    if (!error) return {};
    return {Code::invalid_config, Status::from_errno("create nvme.path", folder, error.value()).message()};
  }

 private:
  std::vector<fs::path> made_;
};

double rounded(double value) {
  if (value <= 0.0) return 0.0;
  const double unit = std::pow(10.0, std::floor(std::log10(value)) - 3.0);
  return std::round(value / unit) * unit;
}

Speeds speeds_of(const Rates& rates) {
  const auto whole = [&](Resource resource) { return std::llround(rounded(rates[resource])); };
  Speeds speeds;
  speeds.h2d = static_cast<std::uint64_t>(whole(Resource::cpu_to_gpu));
  speeds.d2h = static_cast<std::uint64_t>(whole(Resource::gpu_to_cpu));
  speeds.nvme_read = static_cast<std::uint64_t>(whole(Resource::nvme_read));
  speeds.nvme_write = static_cast<std::uint64_t>(whole(Resource::nvme_write));
  speeds.cpu_update = whole(Resource::cpu_update);
  speeds.gpu_update = whole(Resource::gpu_update);
  if (const double forwards = rates[Resource::compute]; forwards > 0.0)
    speeds.compute_unit = std::stod(fmt::format("{:.4g}", 1.0 / forwards));
  return speeds;
}

}  // namespace

Result<Rates> smallest_rates(Communicator& comm, const Rates& mine) {
  STRATA_ASSIGN_OR_RETURN(const auto all, comm.gather_all(std::as_bytes(std::span(mine.per_second)), "comparing rates"));
  Rates smallest;
  for (const std::vector<std::byte>& bytes : all) {
    Rates rates;
    STRATA_CHECK(bytes.size() == sizeof rates.per_second, "every rank sends one rate a resource");
    std::memcpy(rates.per_second.data(), bytes.data(), bytes.size());
    smallest = smaller(smallest, rates);
  }
  return smallest;
}

Result<MeasuredRates> measure_rates(const Config& config, const Model& model, Device& device, Communicator& comm,
                                    std::size_t host_memory, const MeasureOptions& options) {
  constexpr const char* kWhat = "measuring this machine";
  ScratchFolders folders;  // gone after every rank's files
  std::unique_ptr<Probe> probe;
  MeasuredRates measured;
  const auto prepare = [&]() -> Status {
    for (const std::string& folder : config.nvme.path) STRATA_RETURN_IF_ERROR(folders.make(folder));
    EngineOptions engine = engine_options(config, comm.rank());
    engine.nvme.turns.ranks = options.ranks_on_machine;
    if (options.optimizer) engine.optimizer.method = options.optimizer;
    STRATA_ASSIGN_OR_RETURN(probe, Probe::create(engine, model, comm.size(), device, budgets_of(config, host_memory, device),
                                                 {.unused = options.unused, .nvme_bytes = options.nvme_bytes}));
    return {};
  };
  Rates alone, together;
  const auto all_at_once = [&]() -> Status {
    STRATA_ASSIGN_OR_RETURN(together, probe->together(options.seconds));
    return {};
  };
  const auto one_by_one = [&]() -> Status {
    if (options.alone_seconds <= 0.0) return {};
    STRATA_ASSIGN_OR_RETURN(alone, probe->alone(options.alone_seconds));
    return {};
  };
  STRATA_RETURN_IF_ERROR(agree(comm, prepare(), kWhat));  // and all begin at the same time
  STRATA_RETURN_IF_ERROR(agree(comm, all_at_once(), kWhat));
  STRATA_RETURN_IF_ERROR(agree(comm, one_by_one(), kWhat));
  measured.left_out = probe->left_out();
  measured.notes = probe->notes();
  probe.reset();
  STRATA_ASSIGN_OR_RETURN(together, smallest_rates(comm, together));
  STRATA_ASSIGN_OR_RETURN(alone, smallest_rates(comm, alone));
  measured.together = speeds_of(together);
  measured.alone = speeds_of(alone);
  return measured;
}

Config with_rates(const Config& config, const Speeds& rates) {
  Config filled = config;
  Speeds& own = filled.device.rates;
  const auto take = [](auto& to, auto from) {
    if (to == 0) to = from;
  };
  take(own.h2d, rates.h2d);
  take(own.d2h, rates.d2h);
  take(own.cpu_update, rates.cpu_update);
  take(own.gpu_update, rates.gpu_update);
  take(own.nvme_read, rates.nvme_read);
  take(own.nvme_write, rates.nvme_write);
  take(own.compute_unit, rates.compute_unit);
  filled.device.probe = false;
  return filled;
}

std::vector<NamedRate> named_rates(const Speeds& rates) {
  const auto text = [](auto value, const char* unit) {
    return value > 0 ? format_quantity(static_cast<double>(value), unit) : std::string();
  };
  return {{"h2d", text(rates.h2d, "B/s")},
          {"d2h", text(rates.d2h, "B/s")},
          {"cpu_update", text(rates.cpu_update, "parameters/s")},
          {"gpu_update", text(rates.gpu_update, "parameters/s")},
          {"nvme_read", text(rates.nvme_read, "B/s")},
          {"nvme_write", text(rates.nvme_write, "B/s")},
          {"compute_unit", text(rates.compute_unit, "s")}};
}

std::string MeasuredRates::line() const {
  std::vector<std::string> known, unknown;
  for (const NamedRate& rate : named_rates(together))
    if (!rate.text.empty()) known.push_back(fmt::format("{} {}", rate.key, rate.text));
  for (const LeftOut& left : left_out) unknown.push_back(fmt::format("{} ({})", left.what, left.why));
  return fmt::format("measured, all at once: {}{}{}", fmt::join(known, ", "),
                     unknown.empty() ? "" : "; not measured: ", fmt::join(unknown, ", "));
}

std::string hardware_file(const Speeds& rates, const std::vector<std::string>& header) {
  std::string text;
  for (const std::string& line : header) text += "# " + line + "\n";
  const auto add = [&text](const char* key, auto value, const char* unit = "") {
    if (value > 0) text += fmt::format("{}: {}{}\n", key, value, unit);
  };
  const auto add_bytes = [&add](const char* key, std::uint64_t value) {
    constexpr std::uint64_t kMega = 1'000'000;
    value % kMega == 0 ? add(key, value / kMega, "MB/s") : add(key, value, "B/s");
  };
  add_bytes("h2d", rates.h2d);
  add_bytes("d2h", rates.d2h);
  add("cpu_update", rates.cpu_update);
  add("gpu_update", rates.gpu_update);
  add_bytes("nvme_read", rates.nvme_read);
  add_bytes("nvme_write", rates.nvme_write);
  add("compute_unit", rates.compute_unit, "s");
  return text;
}

}  // namespace strata
