#include "launcher/doctor_checks.h"

#include <dnnl.h>
#include <fmt/core.h>
#include <mpi.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "launcher/machine.h"
#include "nvme/block_file.h"
#include "nvme/io_engine.h"
#include "parallel/mpi_communicator.h"
#include "parallel/nccl_api.h"
#include "runtime/arena.h"
#include "runtime/cores.h"
#include "runtime/gpu/cuda.h"
#include "runtime/gpu/cufile.h"
#include "runtime/kernels/isa.h"
#include "trainer/environment.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

Finding present(std::string topic, std::string found) { return {std::move(topic), FindingState::present, std::move(found)}; }
Finding absent(std::string topic, std::string found, std::string costs) {
  return {std::move(topic), FindingState::absent, std::move(found), std::move(costs)};
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// The first folder of PATH that holds `program`, or "".
std::string on_path(const std::string& program) {
  std::istringstream folders(environment("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + '/' + program;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

Finding instruction_set() {
  const auto active = kernels::active_isa();
  const auto best = kernels::available_isas().back();
  const std::string found = std::string(kernels::to_string(active)) + " chosen, best is " + kernels::to_string(best);
  if (active != best)
    return absent("instruction set", found + " (STRATA_ISA=" + environment("STRATA_ISA") + ")",
                  "kernels run slower than they could; unset STRATA_ISA");
  if (active == kernels::Isa::generic) return absent("instruction set", found, "no AVX2: kernels run several times slower");
  return present("instruction set", found);
}

Finding memory(const Machine& machine) {
  const std::uint64_t limit = memory_limit();
  std::string found = format_bytes(machine.memory_bytes) + ", " + format_bytes(machine.available_bytes) + " available";
  if (limit == 0 || limit >= machine.memory_bytes) return present("memory", found);
  return absent("memory", found + ", limited to " + format_bytes(limit) + " by a control group",
                "a run beyond the limit is killed by the kernel: keep memory.cpu under it");
}

Finding huge_pages() {
  const std::string line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const auto open = line.find('['), close = line.find(']');
  const std::string mode =
      open == std::string::npos || close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
  if (mode == "always" || mode == "madvise") return present("huge pages", "transparent, " + mode);
  return absent("huge pages", mode.empty() ? "not offered by the kernel" : "transparent, " + mode,
                "more address translation in the optimizer and in matrix products; as root: "
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
}

int nvidia_devices() {
  int devices = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/sys/bus/pci/devices", ignored)) {
    const bool display = first_line(entry.path() / "class").rfind("0x03", 0) == 0;
    if (display && first_line(entry.path() / "vendor") == "0x10de") ++devices;
  }
  return devices;
}

Finding mpi_library() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);  // allowed before MPI_Init
  const std::string text(version, static_cast<std::size_t>(std::max(length, 0)));
  return present("MPI", text.substr(0, text.find_first_of(",\n")));
}

Finding mpi_launcher() {
  std::string launchers;
  for (const char* program : {"mpirun", "srun"}) {
    const std::string path = on_path(program);
    if (!path.empty()) launchers += (launchers.empty() ? "" : ", ") + path;
  }
  if (launched_under_mpi()) return present("launcher", "this is a rank of a running job; on PATH: " + launchers);
  if (launchers.empty())
    return absent("launcher", "neither mpirun nor srun is on PATH",
                  "one rank only; on Debian and Ubuntu: apt install openmpi-bin");
  return present("launcher", launchers);
}

std::vector<Finding> onednn() {
  const dnnl_version_t* version = dnnl_version();
  std::vector<Finding> findings = {present("oneDNN", fmt::format("{}.{}.{}", version->major, version->minor, version->patch))};
#if defined(__x86_64__)
  const int isa = static_cast<int>(dnnl_get_effective_cpu_isa());
  const auto has = [isa](int wanted) { return (isa & wanted) == wanted; };
  if (has(dnnl_cpu_isa_avx512_core_bf16)) {
    findings.push_back(present("bf16 products", "in hardware"));
  } else if (has(dnnl_cpu_isa_avx512_core)) {
    findings.push_back(
        absent("bf16 products", "AVX-512 without bf16", "precision bf16 computes no faster than fp32; it saves memory"));
  } else {
    findings.push_back(absent("bf16 products", "converted to f32 and back",
                              "precision bf16 gains no speed over fp32 on this processor; it saves memory"));
  }
#endif
  return findings;
}

Finding io_uring() {
  std::string why;
  const auto engine = make_io_engine({}, &why);
  if (!engine.ok()) return absent("I/O engine", engine.status().message(), "no optimizer state on NVMe");
  const std::string name = (*engine)->name();
  if (name == "io_uring") return present("I/O engine", name);
  return absent("I/O engine", name + (why.empty() ? "" : ": " + why),
                "NVMe traffic takes more processor time; the format is the same");
}

Finding locked_memory() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return absent("locked memory", "unknown", "the limit could not be read");
  if (limit.rlim_cur == RLIM_INFINITY) return present("locked memory", "unlimited");
  const std::string found = "limit " + format_bytes(limit.rlim_cur) + (::geteuid() == 0 ? " (root is usually exempt)" : "");
  // Kernels before 5.12 count the rings of io_uring; pinned memory for a GPU counts on all.
  if (limit.rlim_cur >= (rlim_t{64} << 20) || ::geteuid() == 0) return present("locked memory", found);
  return absent("locked memory", found,
                "old kernels may refuse io_uring, and pinned buffers for a GPU are refused; ulimit -l unlimited");
}

Finding direct_io(const std::string& path) {
  const std::string topic = "direct I/O on " + path;
  const fs::path probe = fs::path(path) / fmt::format(".strata-doctor-{}", ::getpid());
  auto file = BlockFile::create(probe.string(), 1 << 20, {});
  if (!file.ok()) return absent(topic, file.status().message(), "optimizer state and checkpoints cannot be kept here");
  file->remove();
  if (!file->direct())
    return absent(topic, "through the page cache: " + file->why_buffered(),
                  "state on NVMe competes with training for memory; use a local ext4 or xfs file system");
  constexpr decltype(statfs::f_type) kTmpfs = 0x01021994;
  struct statfs file_system {};
  if (::statfs(path.c_str(), &file_system) == 0 && file_system.f_type == kTmpfs)
    return absent(topic, "tmpfs: files here are in memory",
                  "state kept here takes memory instead of saving it; name a folder on a drive");
  return present(topic, fmt::format("alignment {}, largest transfer {}", file->alignment(),
                                    file->max_transfer() > 0 ? format_bytes(file->max_transfer()) : "unknown"));
}

Finding cores() {
  const Result<CoreMap> map = CoreMap::of_this_machine();
  if (!map.ok())
    return absent("cores", map.status().message(),
                  "device.threads says how many compute threads a rank has; without it, one for "
                  "each hardware thread");
  const std::string found = fmt::format("{} of {} physical usable, {} NUMA node{}", map->cores(), map->cores_of_machine(),
                                        map->nodes(), map->nodes() == 1 ? "" : "s");
  if (const Status tried = map->share(0, 1).try_out(); !tried.ok())
    return absent("cores", found + "; " + tried.message(), "a rank's threads and memory stay where the system puts them");
  return present("cores", found);
}

}  // namespace

std::vector<Finding> examine_processor() {
  const Machine machine = describe_machine();
  return {present("processor", machine.cpu), instruction_set(), cores(), memory(machine), huge_pages()};
}

std::vector<Finding> examine_gpus() {
  const int devices = nvidia_devices();
  const Result<int> usable = cuda_device_count();
  if (!usable.ok()) {
    const std::string found = devices == 0 ? "none" : fmt::format("{} of NVIDIA", devices);
    return {absent("GPU", found + "; " + usable.status().message(),
                   devices == 0 ? "training runs on the processor; the gpu tier is a budget in its memory"
                                : "the GPU is not used: training runs on the processor")};
  }
  std::vector<Finding> findings;
  std::string file_library = CuFile::kLibrary;
  for (int i = 0; i < *usable; ++i) {
    const auto driver = make_cuda_driver({.ordinal = i});
    const std::string topic = fmt::format("GPU {}", i);
    if (!driver.ok()) {
      findings.push_back(absent(topic, driver.status().message(), "no rank can use it"));
      continue;
    }
    file_library = (*driver)->file_library();
    const GpuProperties& p = (*driver)->properties();
    findings.push_back(
        present(topic, fmt::format("{}, compute capability {}.{}, {} multiprocessors, {}", p.name, p.compute_major,
                                   p.compute_minor, p.multiprocessors, format_bytes(p.memory_bytes))));
  }
  const auto nccl = load_nccl();
  findings.push_back(nccl.ok() ? present("NCCL", (*nccl)->version())
                               : absent("NCCL", nccl.status().message(), "one rank with a GPU only"));
  const auto cufile = CuFile::open(file_library);
  const std::string none = "nvme.gpu_direct: true is refused; states on NVMe pass through host memory";
  findings.push_back(!cufile.ok() ? absent("cuFile", cufile.status().message(), none)
                                  : present("cuFile", (*cufile)->through_host().empty() ? "drives reach GPUs (nvme.gpu_direct)"
                                                                                        : (*cufile)->through_host()));
  return findings;
}

std::vector<Finding> examine_libraries() {
  std::vector<Finding> findings = onednn();
  findings.push_back(mpi_library());
  findings.push_back(mpi_launcher());
  return findings;
}

std::vector<Finding> examine_io(const std::vector<std::string>& paths) {
  std::vector<Finding> findings = {io_uring(), locked_memory()};
  for (const std::string& path : paths) findings.push_back(direct_io(path));
  return findings;
}

}  // namespace strata
