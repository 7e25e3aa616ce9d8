#include "tests/emulator/nccl_emulated.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <vector>

namespace strata::gpu_emulated {
namespace {

enum Kind { kind_all_gather, kind_broadcast, kind_exchange, kind_count };
constexpr std::chrono::microseconds kPoll{50};

struct Operation {
  Kind kind;
  std::vector<NcclComm::Broadcast> broadcasts = {};  // of an all-gather too: one a rank
  std::vector<NcclComm::Send> sends = {};
  std::vector<NcclComm::Receive> receives = {};  // those matched are removed, as are sends
  std::shared_ptr<GpuMark> start = nullptr;
};

struct Member {
  std::deque<Operation> operations;
  std::shared_ptr<GpuCounter> counter;  // operations that have ended
  std::uint32_t enqueued = 0;
  bool has_issued[kind_count] = {};
  bool is_aborted = false;

  Operation* head() { return operations.empty() || !operations.front().start->is_complete() ? nullptr : &operations.front(); }
  void end_front() {
    operations.pop_front();
    counter->set(enqueued - static_cast<std::uint32_t>(operations.size()));
  }
};

bool same_calls(const Operation& a, const Operation& b) {
  const auto same = [](const NcclComm::Broadcast& x, const NcclComm::Broadcast& y) {
    return x.bytes == y.bytes && x.root == y.root;
  };
  return a.kind == b.kind &&
         std::equal(a.broadcasts.begin(), a.broadcasts.end(), b.broadcasts.begin(), b.broadcasts.end(), same);
}

}  // namespace

class EmulatedNccl::Group {
 public:
  explicit Group(int size) : members(static_cast<std::size_t>(size)) {}

  bool is_whole() const {
    return std::all_of(members.begin(), members.end(), [](const auto& member) { return member != nullptr; });
  }
  // NCCL connects GPUs at the first operation of a kind, which takes all of them.
  bool is_connected(const Member& member) const {
    for (int kind = 0; kind < kind_count; ++kind)
      for (const auto& other : members)
        if (member.has_issued[kind] && !other->has_issued[kind]) return false;
    return true;
  }
  // The number of operations that ended.
  int progress() {
    if (!is_whole()) return 0;
    int ended = 0;
    while (move_collective()) ended += static_cast<int>(members.size());
    for (std::size_t r = 0; r < members.size(); ++r) ended += move_pairs(r);
    return ended;
  }
  bool has_work() const {
    return std::any_of(members.begin(), members.end(), [](const auto& m) { return m != nullptr && !m->operations.empty(); });
  }

  std::vector<std::shared_ptr<Member>> members;  // by rank; null: has not joined

 private:
  bool move_collective() {
    for (const auto& member : members) {
      const Operation* const head = member->head();
      if (head == nullptr || head->kind == kind_exchange || !same_calls(*head, *members[0]->head())) return false;
    }
    for (std::size_t i = 0; i < members[0]->head()->broadcasts.size(); ++i) {
      const auto root = static_cast<std::size_t>(members[0]->head()->broadcasts[i].root);
      const void* const from = members[root]->head()->broadcasts[i].from;
      for (const auto& member : members) {
        const NcclComm::Broadcast& to = member->head()->broadcasts[i];
        if (to.to != from) std::memcpy(to.to, from, to.bytes);
      }
    }
    for (const auto& member : members) member->end_front();
    return true;
  }

  int move_pairs(std::size_t r) {
    Operation* const head = members[r]->head();
    if (head == nullptr || head->kind != kind_exchange) return 0;
    std::erase_if(head->receives, [&](const NcclComm::Receive& receive) {
      Operation* const peer = members[static_cast<std::size_t>(receive.from)]->head();
      if (peer == nullptr || peer->kind != kind_exchange) return false;
      const auto send = std::find_if(peer->sends.begin(), peer->sends.end(), [&](const NcclComm::Send& s) {
        return static_cast<std::size_t>(s.to) == r && s.bytes == receive.bytes;
      });
      if (send == peer->sends.end()) return false;
      std::memcpy(receive.to, send->from, receive.bytes);
      peer->sends.erase(send);
      return true;
    });
    int ended = 0;
    for (const auto& member : members)
      if (const Operation* const done = member->head();
          done != nullptr && done->kind == kind_exchange && done->sends.empty() && done->receives.empty()) {
        member->end_front();
        ++ended;
      }
    return ended;
  }
};

namespace {

class EmulatedComm final : public NcclComm {
 public:
  EmulatedComm(std::mutex& mutex, std::condition_variable& changed, const std::map<int, Status>& broken, int rank,
               std::shared_ptr<EmulatedNccl::Group> group)
      : mutex_(mutex), changed_(changed), broken_(broken), rank_(rank), group_(std::move(group)) {}
  ~EmulatedComm() override { abort(); }

  Result<State> poll() override {
    const std::lock_guard lock(mutex_);
    if (self().is_aborted) return aborted();
    if (const auto found = broken_.find(rank_); found != broken_.end()) return found->second;
    if (!group_->is_whole() || !group_->is_connected(self())) return State::in_progress;
    return std::exchange(was_ready_, !was_ready_) ? State::ready : State::in_progress;  // never at the first look
  }

  Status all_gather(const void* mine, void* all, std::size_t bytes, GpuQueue& queue) override {
    Operation operation{.kind = kind_all_gather};
    for (std::size_t r = 0; r < group_->members.size(); ++r) {
      std::byte* const place = static_cast<std::byte*>(all) + r * bytes;
      const bool is_mine = static_cast<int>(r) == rank_;
      operation.broadcasts.push_back(
          {.from = is_mine ? mine : place, .to = place, .bytes = bytes, .root = static_cast<int>(r)});
    }
    return enqueue(std::move(operation), queue);
  }
  Status broadcast(std::span<const Broadcast> broadcasts, GpuQueue& queue) override {
    return enqueue({.kind = kind_broadcast, .broadcasts = {broadcasts.begin(), broadcasts.end()}}, queue);
  }
  Status exchange(std::span<const Send> sends, std::span<const Receive> receives, GpuQueue& queue) override {
    return enqueue(
        {.kind = kind_exchange, .sends = {sends.begin(), sends.end()}, .receives = {receives.begin(), receives.end()}}, queue);
  }
  Status finalize() override { return {}; }
  void abort() override {
    {
      const std::lock_guard lock(mutex_);
      self().is_aborted = true;
      self().operations.clear();
      self().counter->set(self().enqueued);
    }
    changed_.notify_all();
  }

 private:
  static Status aborted() { return {Code::cancelled, "this NCCL communicator was aborted"}; }
  Member& self() const { return *group_->members[static_cast<std::size_t>(rank_)]; }

  Status enqueue(Operation operation, GpuQueue& queue) {
    {
      const std::lock_guard lock(mutex_);
      if (self().is_aborted) return aborted();
      self().has_issued[operation.kind] = true;
      operation.start = queue.mark();
      queue.wait(*self().counter, ++self().enqueued);
      self().operations.push_back(std::move(operation));
    }
    changed_.notify_all();
    return {};
  }

  std::mutex& mutex_;  // of all EmulatedNccl
  std::condition_variable& changed_;
  const std::map<int, Status>& broken_;
  const int rank_;
  const std::shared_ptr<EmulatedNccl::Group> group_;
  bool was_ready_ = false;
};

}  // namespace

EmulatedNccl::EmulatedNccl() : thread_([this] { work(); }) {}

EmulatedNccl::~EmulatedNccl() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<NcclId> EmulatedNccl::make_id() {
  const std::lock_guard lock(mutex_);
  const std::string name = "group " + std::to_string(++ids_);
  NcclId id;
  std::memcpy(id.bytes.data(), name.data(), name.size());
  return id;
}

Result<std::unique_ptr<NcclComm>> EmulatedNccl::join(const NcclId& id, Rank rank, WorldSize size, GpuDriver& gpu) {
  auto member = std::make_shared<Member>();
  STRATA_ASSIGN_OR_RETURN(member->counter, gpu.make_counter());
  const std::lock_guard lock(mutex_);
  auto& group = groups_[reinterpret_cast<const char*>(id.bytes.data())];
  if (!group) group = std::make_shared<Group>(size.v);
  auto& place = group->members.at(static_cast<std::size_t>(rank.v));
  STRATA_CHECK(place == nullptr, "a rank joins once");
  place = std::move(member);
  return std::unique_ptr<NcclComm>(std::make_unique<EmulatedComm>(mutex_, changed_, broken_, rank.v, group));
}

void EmulatedNccl::break_connections(Rank rank, const Status& error) {
  const std::lock_guard lock(mutex_);
  broken_[rank.v] = error;
}

int EmulatedNccl::completed() const {
  const std::lock_guard lock(mutex_);
  return completed_;
}

void EmulatedNccl::work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    bool has_work = false;
    for (const auto& [id, group] : groups_) {
      completed_ += group->progress();
      has_work = has_work || group->has_work();
    }
    if (has_work)
      changed_.wait_for(lock, kPoll);
    else
      changed_.wait(lock);
  }
}

}  // namespace strata::gpu_emulated
