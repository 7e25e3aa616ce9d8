// Keeps NCCL from hanging. An operation that a GPU has begun waits for its peers without end, and NCCL cannot say for whom. So
// one thread of a rank watches the operations of a communicator and its duplicates and tells the other ranks, through a host
// communicator, how far this one is. When a rank dies, gives up, stays away for longer than the timeout, or issues another
// operation than the rest, the thread aborts NCCL, so that every pending and later operation ends with a Status that names the
// rank, the group and the operation.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/nccl_api.h"

namespace strata {

class NcclMonitor {
 public:
  struct Options {
    std::vector<std::string> names;  // of the ranks, for messages
    std::chrono::milliseconds timeout{600'000};
    std::chrono::milliseconds interval{100};  // between two reports
  };
  // line: used by nobody else. Collective, like its destruction, which tells the others that this rank leaves.
  NcclMonitor(std::unique_ptr<Communicator> line, Options options);
  ~NcclMonitor();
  NcclMonitor(const NcclMonitor&) = delete;
  NcclMonitor& operator=(const NcclMonitor&) = delete;

  // What is known of one communicator. Its functions may be called from any thread; begin and end by the one that issues.
  class Track;
  // key: the communicator's name, the same on every rank and used once.
  std::unique_ptr<Track> track(const std::string& key);

 private:
  struct Operation {
    const char* what;
    std::uint64_t number;  // from 1
    std::uint64_t signature;
    GpuQueue* queue;
    std::shared_ptr<GpuMark> start, end;  // end: null while the operation is being issued
    std::chrono::steady_clock::time_point since;
    bool has_started = false;
  };
  struct Record;
  struct Report;
  using Lock = std::unique_lock<std::mutex>;

  void watch();
  Status look_at_operations();
  Status exchange_reports(bool leaving);
  std::vector<std::byte> compose(bool leaving) const;
  Status read_reports(const std::vector<std::vector<std::byte>>& by_rank);
  Status compare(Record& record);
  Status look_for_late_ranks();
  Status late(const Record& record, const Operation& operation) const;
  const Report* report_of(int rank, const std::string& key) const;
  void fail(const Lock& lock, const Status& status, bool names_no_operation);

  const Options options_;
  const std::unique_ptr<Communicator> line_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Record> records_;                           // stable addresses
  std::vector<std::map<std::string, Report>> reports_;  // by rank: the last ones
  std::vector<char> left_;                              // by rank
  bool line_open_ = true;                               // until a rank leaves
  bool leaving_ = false;
  Status asked_;    // this rank gives up: to be done by the thread
  Status failure_;  // of the family; sticky
  std::thread thread_;
};

class NcclMonitor::Track {
 public:
  ~Track();
  Track(const Track&) = delete;
  Track& operator=(const Track&) = delete;

  // Whom to ask for errors and to abort; stays alive until forgotten (null) or the track's end.
  void watch(NcclComm* comm);
  // Around the calls that enqueue one operation. Error of begin: the group's; the operation must not be issued.
  Status begin(const char* what, std::uint64_t signature, GpuQueue& queue);
  Status end(GpuQueue& queue);
  // The first error of this communicator.
  Status failure() const;
  // Makes `status`, which may be the consequence of an earlier error, the error of the family unless there is one, here and on
  // the other ranks. Returns failure().
  Status fail(const Status& status);
  // The same for an error of the host communicator: it names its own operation, and takes the place of what the monitor has
  // heard by itself and given to nobody yet.
  Status fail_on_host(const Status& status);
  // The same, later: does not block.
  void give_up(const Status& status);
  // All that was issued is complete, or the group has failed.
  bool is_idle() const;

 private:
  friend class NcclMonitor;
  Track(NcclMonitor& monitor, Record& record) : monitor_(monitor), record_(record) {}
  Status given_out() const;
  NcclMonitor& monitor_;
  Record& record_;
};

}  // namespace strata
