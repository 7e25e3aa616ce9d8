#include "parallel/thread_communicator.h"

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parallel/exchange.h"

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kCheckInterval{50};

// What a rank shows to the others at a meeting.
struct Post {
  const char* what = "";
  std::uint64_t signature = 0;
  const void* data = nullptr;
};

std::string name_of(int rank) { return "rank " + std::to_string(rank) + " (a thread of this process)"; }

// The first rank to give up and why; shared by a group and its duplicates.
class AbortBoard {
 public:
  void abort(int rank, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (!reason_) reason_ = {Code::peer_lost, name_of(rank) + " gave up: " + reason};
  }
  Status status() const {
    const std::lock_guard lock(mutex_);
    return reason_.value_or(Status());
  }

 private:
  mutable std::mutex mutex_;
  std::optional<Status> reason_;
};

}  // namespace

class ThreadGroup::Channel {
 public:
  Channel(WorldSize size, std::chrono::milliseconds timeout, std::shared_ptr<AbortBoard> board)
      : timeout_(timeout),
        board_(std::move(board)),
        arrivals_(count(size)),
        left_(count(size)),
        taken_(count(size)),
        posts_(count(size)) {}

  int size() const { return static_cast<int>(arrivals_.size()); }
  AbortBoard& board() const { return *board_; }

  void take(int rank) {
    const std::lock_guard lock(mutex_);
    STRATA_CHECK(taken_[static_cast<std::size_t>(rank)] == 0, "a rank has one communicator");
    taken_[static_cast<std::size_t>(rank)] = 1;
  }

  // Returns ok when all ranks have come to their n-th meeting, and then on all of them: a rank that gives up frees what it has
  // posted, so that nobody may read it who comes later.
  Status meet(int rank, const Post& post) {
    std::unique_lock lock(mutex_);
    posts_[static_cast<std::size_t>(rank)] = post;
    const std::uint64_t meeting = arrive(rank);
    const Clock::time_point deadline = Clock::now() + timeout_;
    while (meeting < called_off_ && awaits_someone(meeting)) {
      changed_.wait_until(lock, std::min(deadline, Clock::now() + kCheckInterval));
      if (meeting >= called_off_ || !awaits_someone(meeting)) break;
      if (Status status = check_peers(meeting, post.what, Clock::now() >= deadline); !status.ok()) {
        board_->abort(rank, status.message());
        called_off_ = meeting;
        changed_.notify_all();
        return status;
      }
    }
    return meeting < called_off_ ? Status() : board_->status().with_context(post.what);
  }

  // After meet() was ok everywhere: returns when every rank has come here too. Nothing else ends the wait, neither an abort nor
  // the timeout: a slower rank may still read what this one has posted, and all it does before it comes is to read.
  void part(int rank) {
    std::unique_lock lock(mutex_);
    const std::uint64_t meeting = arrive(rank);
    changed_.wait(lock, [&] { return !awaits_someone(meeting); });
  }

  // Between meet() and part().
  const Post& post(int rank) const { return posts_[static_cast<std::size_t>(rank)]; }

  void leave(int rank) {
    {
      const std::lock_guard lock(mutex_);
      left_[static_cast<std::size_t>(rank)] = 1;
    }
    changed_.notify_all();
  }

  std::shared_ptr<Channel> make_duplicate() const { return std::make_shared<Channel>(WorldSize{size()}, timeout_, board_); }

 private:
  static std::size_t count(WorldSize size) {
    STRATA_CHECK(size.v >= 1, "a group has ranks");
    return static_cast<std::size_t>(size.v);
  }

  std::uint64_t arrive(int rank) {
    const std::uint64_t meeting = ++arrivals_[static_cast<std::size_t>(rank)];
    if (!awaits_someone(meeting)) changed_.notify_all();
    return meeting;
  }

  bool awaits_someone(std::uint64_t meeting) const {
    for (const std::uint64_t arrival : arrivals_)
      if (arrival < meeting) return true;
    return false;
  }

  Status check_peers(std::uint64_t meeting, const char* what, bool too_late) const {
    STRATA_RETURN_IF_ERROR(board_->status().with_context(what));
    std::string missing;
    for (int r = 0; r < size(); ++r) {
      if (arrivals_[static_cast<std::size_t>(r)] >= meeting) continue;
      if (left_[static_cast<std::size_t>(r)] != 0)
        return {Code::peer_lost, name_of(r) + " left the group and will not take part in " + what};
      missing += (missing.empty() ? "" : ", ") + name_of(r);
    }
    if (!too_late) return {};
    char seconds[32];
    std::snprintf(seconds, sizeof(seconds), "%.3g s", std::chrono::duration<double>(timeout_).count());
    return {Code::peer_lost, missing + " did not arrive in " + what + " within " + seconds};
  }

  const std::chrono::milliseconds timeout_;
  const std::shared_ptr<AbortBoard> board_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> arrivals_;           // meetings each rank has come to
  std::uint64_t called_off_ = ~std::uint64_t{0};  // the first meeting that a rank gave up; none after it takes place
  std::vector<char> left_;
  std::vector<char> taken_;
  std::vector<Post> posts_;
};

namespace {

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup::Channel> channel, Rank rank) : channel_(std::move(channel)), rank_(rank) {
    channel_->take(rank.v);
  }
  ~ThreadCommunicator() override { channel_->leave(rank_.v); }

  Rank rank() const override { return rank_; }
  WorldSize size() const override { return {channel_->size()}; }

  Status barrier(const char* what) override {
    BarrierExchange exchange(what);
    return run(exchange, nullptr, [](std::span<const void* const>) {});
  }

  void abort(const std::string& reason) override { channel_->board().abort(rank_.v, reason); }

  Result<std::unique_ptr<Communicator>> duplicate() override {
    std::shared_ptr<ThreadGroup::Channel> copy = rank_.v == 0 ? channel_->make_duplicate() : nullptr;
    BarrierExchange exchange("duplicate");
    STRATA_RETURN_IF_ERROR(run(exchange, &copy, [&](std::span<const void* const> by_rank) {
      if (rank_.v != 0) copy = *static_cast<const std::shared_ptr<ThreadGroup::Channel>*>(by_rank[0]);
    }));
    return std::unique_ptr<Communicator>(std::make_unique<ThreadCommunicator>(std::move(copy), rank_));
  }

 protected:
  Status do_all_gather(const AllGatherArgs& args) override {
    AllGatherExchange exchange(args, rank_, kUncut);
    return run(exchange, exchange.outgoing(0, 0).data(), [&](std::span<const void* const> by_rank) {
      std::vector<const std::byte*> bytes;
      for (const void* data : by_rank) bytes.push_back(static_cast<const std::byte*>(data));
      exchange.consume(0, bytes);
    });
  }

  Status do_reduce_scatter_add(const ReduceScatterArgs& args) override {
    ReduceScatterExchange exchange(args, rank_, kUncut);
    const Slice mine = args.slices[static_cast<std::size_t>(rank_.v)];
    return run(exchange, args.full, [&](std::span<const void* const> by_rank) {
      std::vector<const std::byte*> bytes;
      for (const void* full : by_rank)
        bytes.push_back(mine.count == 0 ? nullptr
                                        : reinterpret_cast<const std::byte*>(static_cast<const float*>(full) + mine.first));
      exchange.consume(0, bytes);
    });
  }

 private:
  static constexpr std::size_t kUncut = std::size_t{1} << 60;  // everything in one round

  struct Parting {  // the others wait for it, whatever happens in between
    ThreadGroup::Channel& channel;
    int rank;
    ~Parting() { channel.part(rank); }
  };

  // Shows `mine` to the others, calls `use` with what every rank shows, and keeps it valid until all are done with it.
  template <class Use>
  Status run(const Exchange& exchange, const void* mine, const Use& use) {
    if (failure_.ok()) failure_ = try_run(exchange, mine, use);
    return failure_;
  }

  template <class Use>
  Status try_run(const Exchange& exchange, const void* mine, const Use& use) {
    STRATA_RETURN_IF_ERROR(channel_->board().status().with_context(exchange.what()));
    const Post post{exchange.what(), exchange.signature(), mine};
    STRATA_RETURN_IF_ERROR(channel_->meet(rank_.v, post));
    const Parting parting{*channel_, rank_.v};
    std::vector<const void*> by_rank;
    Status same;
    for (int r = 0; r < size().v; ++r) {
      by_rank.push_back(channel_->post(r).data);
      if (same.ok()) same = check_same_operation(exchange, r);
    }
    if (same.ok())
      use(by_rank);
    else
      abort(same.message());
    return same;
  }

  Status check_same_operation(const Exchange& exchange, int peer) const {
    if (channel_->post(peer).signature == exchange.signature()) return {};
    return {Code::internal, name_of(peer) + " issues " + channel_->post(peer).what + " where " + name_of(rank_.v) + " issues " +
                                exchange.what() + ", or the same with other sizes: the ranks' programs went apart"};
  }

  const std::shared_ptr<ThreadGroup::Channel> channel_;
  const Rank rank_;
  Status failure_;
};

}  // namespace

ThreadGroup::ThreadGroup(WorldSize size, const ThreadGroupOptions& options)
    : channel_(std::make_shared<Channel>(size, options.timeout, std::make_shared<AbortBoard>())) {}

ThreadGroup::~ThreadGroup() = default;

std::unique_ptr<Communicator> ThreadGroup::communicator(Rank rank) {
  STRATA_CHECK(rank.v >= 0 && rank.v < channel_->size(), "a rank of the group");
  return std::make_unique<ThreadCommunicator>(channel_, rank);
}

std::unique_ptr<Communicator> make_single_rank_communicator() { return ThreadGroup({1}).communicator({0}); }

}  // namespace strata
