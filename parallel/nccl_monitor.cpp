#include "parallel/nccl_monitor.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kLine = "watching NCCL";

std::uint64_t chained(std::uint64_t chain, std::uint64_t signature) {
  const std::uint64_t mixed = (chain ^ signature) * 0x9e3779b97f4a7c15u;
  return mixed ^ (mixed >> 29);
}

template <std::size_t n>
void put(const std::string& text, std::array<char, n>* field) {
  const std::size_t length = std::min(text.size(), n - 1);
  std::memcpy(field->data(), text.data(), length);
}

std::string seconds_text(std::chrono::milliseconds time) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s", std::chrono::duration<double>(time).count());
  return text;
}

}  // namespace

struct NcclMonitor::Record {
  std::string key;
  NcclComm* comm = nullptr;
  std::deque<Operation> operations = {};  // not complete, as far as is known
  std::uint64_t issued = 0;
  std::uint64_t compared = 0;             // operations that every rank has issued, by the last reports
  std::deque<std::uint64_t> chain = {0};  // of the signatures of the first `compared` operations, of one more, ...
  bool is_retired = false;
  Status failure = {};
  bool failure_is_out = false;  // somebody has been given it: no other may take its place

  std::uint64_t completed() const { return issued - operations.size(); }
  std::string name(const Operation& operation) const {
    return std::string(operation.what) + " (operation " + std::to_string(operation.number) + " of NCCL group " + key + ")";
  }
};

// What a rank tells the others of one communicator.
struct NcclMonitor::Report {
  std::array<char, 64> key{};
  std::array<char, 64> what{};  // of the first operation that is not complete
  std::uint64_t signature = 0;  // the same
  std::uint64_t issued = 0;
  std::uint64_t completed = 0;
  std::uint64_t started = 0;
  std::uint64_t compared = 0;
  std::uint64_t chain = 0;
  std::uint64_t is_retired = 0;
};

NcclMonitor::NcclMonitor(std::unique_ptr<Communicator> line, Options options)
    : options_(std::move(options)),
      line_(std::move(line)),
      reports_(options_.names.size()),
      left_(options_.names.size()),
      thread_([this] { watch(); }) {}

NcclMonitor::~NcclMonitor() {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::unique_ptr<NcclMonitor::Track> NcclMonitor::track(const std::string& key) {
  STRATA_CHECK(key.size() < Report().key.size(), "the name of a NCCL group is short");
  const std::lock_guard lock(mutex_);
  Record& record = records_.emplace_back(Record{.key = key});
  record.failure = failure_;
  return std::unique_ptr<Track>(new Track(*this, record));
}

// ---- the thread ----

void NcclMonitor::watch() {
  Lock lock(mutex_);
  while (failure_.ok()) {
    changed_.wait_for(lock, options_.interval, [&] { return leaving_ || !asked_.ok() || !failure_.ok(); });
    if (!failure_.ok()) return;
    const bool leaving = leaving_;
    Status status = asked_, line_status;
    // A peer that aborts breaks NCCL's connections: its reason, which comes by the line, says more than NCCL's error.
    const Status seen = look_at_operations();
    if (status.ok() && line_open_) {
      const std::vector<std::byte> mine = compose(leaving);
      lock.unlock();
      const auto by_rank = line_->gather_all(mine, kLine);
      lock.lock();
      line_status = by_rank.status();
      status = by_rank.ok() ? read_reports(*by_rank) : line_status;
    }
    if (status.ok()) status = seen;
    if (status.ok()) status = look_for_late_ranks();
    if (!status.ok()) fail(lock, status, !line_status.ok());
    if (leaving) return;
  }
}

// NCCL's own errors; and how far the queues are.
Status NcclMonitor::look_at_operations() {
  for (Record& record : records_) {
    while (!record.operations.empty()) {
      Operation& front = record.operations.front();
      if (!front.has_started && front.start->is_complete()) {
        front.has_started = true;
        front.since = Clock::now();
      }
      if (front.end == nullptr || !front.end->is_complete()) break;
      record.operations.pop_front();
    }
    if (record.comm == nullptr) continue;
    if (const auto state = record.comm->poll(); !state.ok()) {
      const std::string where = record.operations.empty() ? "NCCL group " + record.key : record.name(record.operations.front());
      return state.status().with_context(where);
    }
  }
  return {};
}

std::vector<std::byte> NcclMonitor::compose(bool leaving) const {
  std::vector<Report> reports;
  for (const Record& record : records_) {
    Report report;
    put(record.key, &report.key);
    report.issued = record.issued;
    report.completed = report.started = record.completed();
    report.compared = record.compared;
    report.chain = record.chain.front();
    report.is_retired = record.is_retired ? 1 : 0;
    if (!record.operations.empty()) {
      const Operation& front = record.operations.front();
      put(front.what, &report.what);
      report.signature = front.signature;
      if (front.has_started) report.started = front.number;
    }
    reports.push_back(report);
  }
  std::vector<std::byte> bytes(1 + reports.size() * sizeof(Report), std::byte{leaving});
  if (!reports.empty()) std::memcpy(bytes.data() + 1, reports.data(), reports.size() * sizeof(Report));
  return bytes;
}

Status NcclMonitor::read_reports(const std::vector<std::vector<std::byte>>& by_rank) {
  for (std::size_t r = 0; r < by_rank.size(); ++r) {
    const std::vector<std::byte>& bytes = by_rank[r];
    if (bytes.size() % sizeof(Report) != 1) return {Code::internal, options_.names[r] + " runs another version of Strata"};
    reports_[r].clear();
    for (std::size_t at = 1; at < bytes.size(); at += sizeof(Report)) {
      Report report;
      std::memcpy(&report, bytes.data() + at, sizeof(Report));
      reports_[r].emplace(report.key.data(), report);
    }
    if (bytes[0] != std::byte{0}) {
      left_[r] = 1;
      line_open_ = false;
    }
  }
  Status status;
  for (auto record = records_.begin(); record != records_.end() && status.ok();) {
    status = compare(*record);
    const bool is_over = std::all_of(reports_.begin(), reports_.end(), [&](const auto& reports) {
      const auto found = reports.find(record->key);
      return found != reports.end() && found->second.is_retired != 0;
    });
    record = is_over ? records_.erase(record) : std::next(record);
  }
  return status;
}

const NcclMonitor::Report* NcclMonitor::report_of(int rank, const std::string& key) const {
  const auto& reports = reports_[static_cast<std::size_t>(rank)];
  const auto found = reports.find(key);
  return found == reports.end() ? nullptr : &found->second;
}

// Every rank has the same reports, so all of them come to the same `compared`.
Status NcclMonitor::compare(Record& record) {
  const int self = line_->rank().v;
  const Report* const mine = report_of(self, record.key);
  if (mine == nullptr) return {};  // made while the reports were on their way
  std::uint64_t common = mine->issued;
  for (int r = 0; r < line_->size().v; ++r) {
    const Report* const theirs = report_of(r, record.key);
    common = theirs == nullptr ? 0 : std::min(common, theirs->issued);
    if (theirs == nullptr) continue;
    const auto apart = [&](const std::string& they, const std::string& we) {
      const std::string& name = options_.names[static_cast<std::size_t>(r)];
      return Status(Code::internal, name + " issues " + they + " where " + options_.names[static_cast<std::size_t>(self)] +
                                        " issues " + we + " in NCCL group " + record.key +
                                        ", or the same with other sizes: the ranks' programs went apart");
    };
    const bool both_wait = mine->issued > mine->completed && theirs->issued > theirs->completed;
    if (both_wait && mine->completed == theirs->completed && mine->signature != theirs->signature)
      return apart(theirs->what.data(), mine->what.data());
    if (mine->compared == theirs->compared && mine->chain != theirs->chain)
      return apart("other operations", "those up to number " + std::to_string(mine->compared));
  }
  for (; record.compared < common; ++record.compared) record.chain.pop_front();
  return {};
}

Status NcclMonitor::look_for_late_ranks() {
  const Clock::time_point now = Clock::now();
  for (const Record& record : records_) {
    if (record.operations.empty()) continue;
    const Operation& front = record.operations.front();
    for (int r = 0; r < line_->size().v; ++r) {
      const Report* const report = report_of(r, record.key);
      const bool is_gone = left_[static_cast<std::size_t>(r)] != 0 || (report != nullptr && report->is_retired != 0);
      if (r != line_->rank().v && is_gone && (report == nullptr || report->issued < front.number))
        return {Code::peer_lost, options_.names[static_cast<std::size_t>(r)] + " left the group and will not take part in " +
                                     record.name(front)};
    }
    // Before it has started it waits for this rank's own stream, unless the call that issues it waits for the others.
    if ((front.has_started || front.end == nullptr) && now - front.since >= options_.timeout) return late(record, front);
  }
  return {};
}

Status NcclMonitor::late(const Record& record, const Operation& operation) const {
  std::string missing;
  for (int r = 0; r < line_->size().v; ++r) {
    if (r == line_->rank().v) continue;
    const Report* const report = report_of(r, record.key);
    if (report != nullptr && report->started >= operation.number) continue;
    const bool has_issued = report != nullptr && report->issued >= operation.number;
    missing += (missing.empty() ? "" : ", ") + options_.names[static_cast<std::size_t>(r)] +
               (has_issued ? " (its GPU is still busy with earlier work)" : " (its program has not come to it)");
  }
  const std::string within = " within " + seconds_text(options_.timeout);
  if (missing.empty())
    return {Code::peer_lost,
            record.name(operation) + " did not end" + within +
                " although every rank is in it: a broken connection between GPUs? NCCL_DEBUG=INFO prints more"};
  return {Code::peer_lost, missing + " did not arrive in " + record.name(operation) + within};
}

// The queues learn the error first: what waits for them must not take an aborted operation for a complete one.
void NcclMonitor::fail(const Lock&, const Status& status, bool names_no_operation) {
  if (!failure_.ok()) return;
  failure_ = status;
  for (Record& record : records_) {
    if (record.failure.ok())
      record.failure = names_no_operation && !record.operations.empty()
                           ? status.with_context(record.name(record.operations.front()))
                           : status;
    for (const Operation& operation : record.operations) {
      if (operation.end == nullptr || operation.end->is_complete()) continue;
      record.failure_is_out = true;
      operation.queue->fail(record.failure);
    }
    if (record.comm != nullptr) record.comm->abort();
    record.operations.clear();
  }
  line_->abort(status.message());
  changed_.notify_all();
}

// ---- one communicator ----

NcclMonitor::Track::~Track() {
  const std::lock_guard lock(monitor_.mutex_);
  record_.comm = nullptr;
  record_.operations.clear();
  record_.is_retired = true;
}

void NcclMonitor::Track::watch(NcclComm* comm) {
  const std::lock_guard lock(monitor_.mutex_);
  record_.comm = comm;
}

Status NcclMonitor::Track::begin(const char* what, std::uint64_t signature, GpuQueue& queue) {
  const std::lock_guard lock(monitor_.mutex_);
  STRATA_RETURN_IF_ERROR(given_out());
  record_.chain.push_back(chained(record_.chain.back(), signature));
  record_.operations.push_back({.what = what,
                                .number = ++record_.issued,
                                .signature = signature,
                                .queue = &queue,
                                .start = queue.mark(),
                                .end = nullptr,
                                .since = Clock::now()});
  return {};
}

Status NcclMonitor::Track::end(GpuQueue& queue) {
  const std::lock_guard lock(monitor_.mutex_);
  STRATA_RETURN_IF_ERROR(given_out());
  record_.operations.back().end = queue.mark();
  return {};
}

Status NcclMonitor::Track::failure() const {
  const std::lock_guard lock(monitor_.mutex_);
  return given_out();
}

Status NcclMonitor::Track::given_out() const {
  if (!record_.failure.ok()) record_.failure_is_out = true;
  return record_.failure;
}

Status NcclMonitor::Track::fail(const Status& status) {
  const Lock lock(monitor_.mutex_);
  monitor_.fail(lock, status, false);
  return given_out();
}

Status NcclMonitor::Track::fail_on_host(const Status& status) {
  const Lock lock(monitor_.mutex_);
  if (!record_.failure_is_out) record_.failure = status;
  monitor_.fail(lock, status, false);
  return given_out();
}

void NcclMonitor::Track::give_up(const Status& status) {
  {
    const std::lock_guard lock(monitor_.mutex_);
    if (monitor_.asked_.ok()) monitor_.asked_ = status;
  }
  monitor_.changed_.notify_all();
}

bool NcclMonitor::Track::is_idle() const {
  const std::lock_guard lock(monitor_.mutex_);
  return std::all_of(record_.operations.begin(), record_.operations.end(),
                     [](const Operation& operation) { return operation.end != nullptr && operation.end->is_complete(); });
}

}  // namespace strata
