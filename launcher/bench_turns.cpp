#include "launcher/bench_turns.h"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "launcher/bench_report.h"
#include "nvme/record_traffic.h"
#include "nvme/state_files.h"
#include "runtime/arena.h"
#include "runtime/config.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kMostRanks = 64;
// A gain that is smaller is not worth the wait of a rank for another.
constexpr double kWorthIt = 1.02;

struct Pattern {
  const char* name;
  bool reads, writes;
};
constexpr std::array<Pattern, 3> kPatterns = {{{"read", true, false}, {"write", false, true}, {"read and write", true, true}}};

// Shared by this process and those that measure. A task is a pattern, by turns or not.
struct Board {
  static constexpr int kEnd = -1;
  std::atomic<int> round{0};    // counts tasks; kEnd
  std::atomic<int> pattern{0};  // in kPatterns
  std::atomic<bool> by_turns{false};
  std::atomic<int> arrived{0};  // ranks that have done what there was to do
  struct Result {
    double bytes_per_second = 0;
    bool failed = false;
    std::array<char, 1024> text{};  // the error; of the first round, notes
  };
  std::array<Result, kMostRanks> results;
};

void say(Board::Result& result, const std::string& text) {
  const std::size_t n = text.copy(result.text.data(), result.text.size() - 1);
  result.text[n] = '\0';
}

// One rank's files and memory.
class Subject {
 public:
  Subject(const BenchOptions& options, const std::vector<std::string>& folders, int rank)
      : options_(options), folders_(folders), rank_(rank) {}

  Status prepare(std::string* notes) {
    using Kind = IoEngineOptions::Kind;
    RecordTrafficOptions traffic{.payload_bytes = static_cast<std::size_t>(options_.record_size),
                                 .file_bytes = static_cast<std::size_t>(options_.bytes)};
    traffic.weights.assign(folders_.size(), 1.0);  // alike for both
    traffic.io = {.kind = options_.engine == "auto"       ? Kind::automatic
                          : options_.engine == "io_uring" ? Kind::io_uring
                                                          : Kind::threads,
                  .queue_depth = static_cast<unsigned>(options_.queue_depth),
                  .block_bytes = static_cast<std::size_t>(options_.block_size)};
    const std::size_t bytes = RecordTraffic::window_bytes(traffic);
    arena_ = std::make_unique<TierArena>(Tier::cpu, 2 * bytes + 2 * TierArena::kAlignment);
    for (Buffer& window : windows_) {
      STRATA_ASSIGN_OR_RETURN(window, arena_->allocate(bytes, Category::io, "benchmark window"));
    }
    for (const bool by_turns : {false, true}) {
      traffic.turns = {.when = by_turns ? TurnOptions::When::always : TurnOptions::When::never, .ranks = 2};
      std::vector<std::string> paths;
      for (const std::string& folder : folders_)
        paths.push_back(state_file_path(folder, rank_, by_turns ? StateFileKind::parameters : StateFileKind::optimizer));
      std::unique_ptr<RecordTraffic>& made = by_turns ? by_turns_ : freely_;
      STRATA_ASSIGN_OR_RETURN(made, RecordTraffic::create(paths, traffic, {windows_[0].data(), windows_[0].size()},
                                                          {windows_[1].data(), windows_[1].size()}));
      STRATA_RETURN_IF_ERROR(made->write_all());
      for (const std::string& note : made->notes()) *notes += note + "\n";
    }
    return {};
  }

  // Bytes a second, both directions added.
  Result<double> measure(const Pattern& pattern, bool by_turns, double seconds) {
    RecordTraffic& traffic = by_turns ? *by_turns_ : *freely_;
    double rates[2] = {};
    Status failures[2];
    const auto run = [&](bool write) {
      const auto begin = Clock::now();
      double elapsed = 0, bytes = 0;
      while (elapsed < seconds) {
        failures[write] = write ? traffic.write() : traffic.read();
        if (!failures[write].ok()) return;
        bytes += static_cast<double>(traffic.payload_bytes());
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      }
      rates[write] = bytes / elapsed;
    };
    std::thread writer;
    if (pattern.writes) writer = std::thread(run, true);
    if (pattern.reads) run(false);
    if (writer.joinable()) writer.join();
    for (const Status& failure : failures) STRATA_RETURN_IF_ERROR(failure);
    return rates[0] + rates[1];
  }

 private:
  const BenchOptions& options_;
  const std::vector<std::string>& folders_;
  int rank_;
  std::unique_ptr<TierArena> arena_;
  std::array<Buffer, 2> windows_;
  std::unique_ptr<RecordTraffic> freely_, by_turns_;
};

// The life of a process that measures.
void serve(Board& board, const BenchOptions& options, const std::vector<std::string>& folders, int rank) {
  Board::Result& mine = board.results[static_cast<std::size_t>(rank)];
  Subject subject(options, folders, rank);
  std::string notes;
  Status status = subject.prepare(&notes);
  say(mine, status.ok() ? notes : status.message());
  for (int done = 0;;) {
    mine.failed = !status.ok();
    ++board.arrived;
    while (board.round == done) std::this_thread::sleep_for(milliseconds(1));
    if (board.round == Board::kEnd) return;
    done = board.round;
    if (!status.ok()) continue;
    const Pattern& pattern = kPatterns[static_cast<std::size_t>(board.pattern)];
    const Result<double> rate = subject.measure(pattern, board.by_turns, options.seconds / options.repeats);
    status = rate.status();
    mine.bytes_per_second = rate.ok() ? *rate : 0.0;
    if (!status.ok()) say(mine, status.message());
  }
}

// The processes, and the board; ends them on destruction.
class Ranks {
 public:
  Ranks(const BenchOptions& options, const std::vector<std::string>& folders) : wanted_(static_cast<int>(options.ranks)) {
    void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    board_ = new (memory) Board();
    const pid_t parent = ::getpid();
    for (int rank = 0; rank < wanted_; ++rank) {
      const pid_t pid = ::fork();
      if (pid < 0) return;  // wait() says so
      if (pid > 0) {
        pids_.push_back(pid);
        continue;
      }
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == parent) serve(*board_, options, folders, rank);
      std::_Exit(0);
    }
  }
  ~Ranks() {
    board_->round = Board::kEnd;
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    ::munmap(board_, sizeof(Board));
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  // Until every rank has done its task.
  Status wait() {
    if (static_cast<int>(pids_.size()) < wanted_) return {Code::io_error, "no more processes can be started"};
    while (board_->arrived < wanted_) {
      std::this_thread::sleep_for(milliseconds(1));
      for (pid_t& pid : pids_) {
        if (::waitpid(pid, nullptr, WNOHANG) != pid) continue;
        pids_.erase(pids_.begin() + (&pid - pids_.data()));
        return {Code::peer_lost, "a process that measured has died"};
      }
    }
    for (const Board::Result& result : board_->results)
      if (result.failed) return {Code::io_error, result.text.data()};
    return {};
  }

  // Bytes a second of all ranks together.
  Result<double> measure(std::size_t pattern, bool by_turns) {
    board_->arrived = 0;
    board_->pattern = static_cast<int>(pattern);
    board_->by_turns = by_turns;
    ++board_->round;
    STRATA_RETURN_IF_ERROR(wait());
    double sum = 0;
    for (int rank = 0; rank < wanted_; ++rank) sum += board_->results[static_cast<std::size_t>(rank)].bytes_per_second;
    return sum;
  }

  std::string notes() const { return board_->results[0].text.data(); }

 private:
  int wanted_;
  Board* board_ = nullptr;
  std::vector<pid_t> pids_;
};

// A folder in each of those that are measured, gone at the end.
class Folders {
 public:
  ~Folders() {
    std::error_code ignored;
    for (const std::string& path : paths_) fs::remove_all(path, ignored);
  }
  Status make(const std::vector<std::string>& in) {
    for (const std::string& folder : in) {
      const std::string path = folder + "/strata-bench-" + std::to_string(::getpid());
      std::error_code error;
      if (!fs::create_directory(path, error) && error) return Status::from_errno("create", path, error.value());
      paths_.push_back(path);
    }
    return {};
  }
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  std::vector<std::string> paths_;
};

}  // namespace

Status bench_turns(const BenchOptions& options) {
  if (options.ranks > kMostRanks) return {Code::invalid_argument, "--ranks: at most " + std::to_string(kMostRanks)};
  const Machine machine = describe_machine();
  Folders folders;
  STRATA_RETURN_IF_ERROR(folders.make(options.paths));
  BenchReport report{.benchmark = "nvme turns",
                     .parameters = {{"path", fmt::format("{}", fmt::join(options.paths, " "))},
                                    {"ranks", std::to_string(options.ranks)},
                                    {"record_size", exact_bytes(static_cast<std::size_t>(options.record_size))},
                                    {"bytes", exact_bytes(static_cast<std::size_t>(options.bytes))},
                                    {"block_size", exact_bytes(static_cast<std::size_t>(options.block_size))},
                                    {"queue_depth", std::to_string(options.queue_depth)}},
                     .threads = 1};
  bool worth_it = true;
  {
    Ranks ranks(options, folders.paths());
    STRATA_RETURN_IF_ERROR(ranks.wait());
    report.notes.push_back(ranks.notes());
    for (std::size_t p = 0; p < kPatterns.size(); ++p) {
      Measurement measured[2] = {{.name = std::string(kPatterns[p].name) + ", at will", .unit = "B/s"},
                                 {.name = std::string(kPatterns[p].name) + ", by turns", .unit = "B/s"}};
      std::vector<double> ratios;
      for (int i = -1; i < options.repeats; ++i) {  // the first warms up
        double rates[2];
        for (const int step : {0, 1}) {
          const bool by_turns = (i + step) % 2 != 0;  // each is first as often as the other
          STRATA_ASSIGN_OR_RETURN(rates[by_turns], ranks.measure(p, by_turns));
          if (i >= 0) measured[by_turns].samples.push_back(rates[by_turns]);
        }
        if (i >= 0) ratios.push_back(rates[1] / rates[0]);
      }
      const Statistics ratio = statistics(ratios);
      report.parameters.emplace_back("turns_ratio_" + std::string(p == 2 ? "both" : kPatterns[p].name),
                                     fmt::format("{:.3f} ({:.3f} to {:.3f})", ratio.median, ratio.min, ratio.max));
      worth_it = worth_it && ratio.median >= kWorthIt;
      for (Measurement& m : measured) report.measurements.push_back(std::move(m));
    }
  }
  if (report.notes.back().empty()) report.notes.pop_back();
  report.parameters.emplace_back("suggestion", std::string("nvme: {exclusive: ") + (worth_it ? "on}" : "off}"));
  print_report(report, machine, options.json);
  return {};
}

}  // namespace strata
