#include "parallel/nccl_communicator.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/exchange.h"
#include "parallel/gpu_kernels.h"
#include "parallel/nccl_connect.h"
#include "parallel/nccl_monitor.h"

namespace strata {

namespace {

enum Operation { operation_all_gather = 1, operation_reduce_scatter };

constexpr std::int64_t kChunkAlignment = 64;  // elements
constexpr std::chrono::microseconds kPoll{50};
// To leave in order takes the other ranks; one that has died must not hold up the end of this one.
constexpr std::chrono::seconds kLeaveTimeout{5};

// A communicator and its duplicates.
struct Family {
  std::shared_ptr<NcclApi> nccl;
  GpuDriver& gpu;
  NcclOptions options;
  std::unique_ptr<NcclMonitor> monitor;  // null in a group of one
};

bool are_even_and_in_order(std::span<const Slice> slices) {
  for (std::size_t r = 1; r < slices.size(); ++r)
    if (slices[r].count != slices[0].count || slices[r].first != slices[r - 1].end()) return false;
  return true;
}

class NcclCommunicator final : public Communicator {
 public:
  // track, comm: null in a group of one.
  NcclCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<Family> family, std::string key,
                   std::unique_ptr<NcclMonitor::Track> track)
      : inner_(std::move(inner)), family_(std::move(family)), key_(std::move(key)), track_(std::move(track)) {}
  ~NcclCommunicator() override {
    if (comm_) leave();
  }

  Rank rank() const override { return inner_->rank(); }
  WorldSize size() const override { return inner_->size(); }

  // Collective: forms the group of GPUs and connects them.
  Status connect() {
    STRATA_ASSIGN_OR_RETURN(const NcclId id, agree_on_nccl_id(*inner_, *family_->nccl));
    auto joined = family_->nccl->join(id, rank(), size(), family_->gpu);
    if (!joined.ok()) return track_->fail(joined.status());
    comm_ = std::move(joined).value();
    track_->watch(comm_.get());
    const Status status =
        connect_gpus(family_->gpu, rank(), size(), family_->options.connect_bytes, [&](GpuQueue& queue, const NcclStep& step) {
          enqueue("connecting GPUs", 0, queue, [&] { return settled(step(*comm_, queue)); });
          return track_->failure();
        });
    return status.ok() ? status : track_->fail(status);
  }

  Result<std::unique_ptr<Communicator>> duplicate() override;

  Status barrier(const char* what) override {
    return control([&] { return inner_->barrier(what); });
  }
  Result<std::vector<std::vector<std::byte>>> gather_all(std::span<const std::byte> mine, const char* what) override {
    std::vector<std::vector<std::byte>> all;
    STRATA_RETURN_IF_ERROR(control([&]() -> Status {
      STRATA_ASSIGN_OR_RETURN(all, inner_->gather_all(mine, what));
      return {};
    }));
    return all;
  }
  Status broadcast(std::span<std::byte> bytes, Rank root, const char* what) override {
    return control([&] { return inner_->broadcast(bytes, root, what); });
  }
  void abort(const std::string& reason) override {
    inner_->abort(reason);
    if (track_) track_->give_up({Code::peer_lost, "this rank gave up: " + reason});
  }

 protected:
  void enqueue_all_gather(const AllGatherArgs& args, StreamRef stream) override {
    if (!stream.on_gpu()) return inner_->all_gather(args, stream);
    const GpuOperation operation(stream, args.what);
    GpuQueue& queue = operation.queue();
    enqueue(args.what, signature_of(operation_all_gather, args.element_size, args.slices), queue,
            [&] { return gather(args, queue); });
  }
  void enqueue_reduce_scatter_add(const ReduceScatterArgs& args, StreamRef stream) override {
    if (!stream.on_gpu()) return inner_->reduce_scatter_add(args, stream);
    const GpuOperation operation(stream, args.what);
    GpuQueue& queue = operation.queue();
    STRATA_CHECK(!comm_ || queue.scratch().size() >= family_->options.scratch_bytes,
                 "a queue that reduces has as much scratch as NcclOptions says");
    enqueue(args.what, signature_of(operation_reduce_scatter, sizeof(float), args.slices), queue,
            [&] { return reduce(args, queue); });
  }
  // Never called: the above replace what calls them.
  Status do_all_gather(const AllGatherArgs& args) override { return on_host(args.what); }
  Status do_reduce_scatter_add(const ReduceScatterArgs& args) override { return on_host(args.what); }

 private:
  static Status on_host(const char* what) { return {Code::internal, std::string(what) + ": NCCL has no host operations"}; }

  int self() const { return rank().v; }

  template <class Call>
  Status control(const Call& call) {
    if (!track_) return call();
    STRATA_RETURN_IF_ERROR(track_->failure());
    Status status = call();
    return status.ok() ? status : track_->fail_on_host(status);
  }

  // An error is the queue's, where the events of the stream find it.
  template <class Issue>
  void enqueue(const char* what, std::uint64_t signature, GpuQueue& queue, const Issue& issue) {
    Status status = track_ ? track_->begin(what, signature, queue) : Status();
    if (status.ok()) {
      status = issue();
      if (!status.ok() && track_) status = track_->fail(status.with_context(std::string(what) + " of NCCL group " + key_));
      if (status.ok() && track_) status = track_->end(queue);
    }
    if (!status.ok()) queue.fail(status);
  }

  // NCCL is non-blocking: a call that has to connect GPUs first has enqueued nothing when it returns.
  Status settled(const Status& called) {
    STRATA_RETURN_IF_ERROR(called);
    while (true) {
      const auto state = comm_->poll();
      if (!state.ok()) return state.status();
      if (*state == NcclComm::State::ready) return {};
      STRATA_RETURN_IF_ERROR(track_->failure());
      std::this_thread::sleep_for(kPoll);
    }
  }

  Status gather(const AllGatherArgs& args, GpuQueue& queue) {
    const auto target = [&](std::size_t r) {
      return static_cast<std::byte*>(args.full) + static_cast<std::size_t>(args.slices[r].first) * args.element_size;
    };
    const auto bytes = [&](std::size_t r) { return static_cast<std::size_t>(args.slices[r].count) * args.element_size; };
    const auto mine = static_cast<std::size_t>(self());
    const void* const shard = args.shard != nullptr ? args.shard : bytes(mine) == 0 ? nullptr : target(mine);
    if (!comm_) {
      if (shard != target(mine)) queue.copy(shard, target(mine), bytes(mine));
      return {};
    }
    if (are_even_and_in_order(args.slices))
      return bytes(0) == 0 ? Status() : settled(comm_->all_gather(shard, target(0), bytes(0), queue));
    std::vector<NcclComm::Broadcast> broadcasts;
    for (std::size_t r = 0; r < args.slices.size(); ++r)
      if (bytes(r) > 0)
        broadcasts.push_back(
            {.from = r == mine ? shard : target(r), .to = target(r), .bytes = bytes(r), .root = static_cast<int>(r)});
    return broadcasts.empty() ? Status() : settled(comm_->broadcast(broadcasts, queue));
  }

  // Elements of a slice that move at once: the same on every rank.
  std::int64_t chunk() const {
    const auto others = static_cast<std::size_t>(std::max(1, size().v - 1));
    const auto fits = static_cast<std::int64_t>(family_->options.scratch_bytes / others / sizeof(float));
    return fits / kChunkAlignment * kChunkAlignment;
  }

  Status reduce(const ReduceScatterArgs& args, GpuQueue& queue) {
    std::int64_t longest = 0;
    for (const Slice& slice : args.slices) longest = std::max(longest, slice.count);
    const std::int64_t step = comm_ ? chunk() : std::max<std::int64_t>(longest, 1);
    for (std::int64_t begin = 0; begin < longest; begin += step) {
      const auto piece = [&](int r) {
        const Slice& slice = args.slices[static_cast<std::size_t>(r)];
        const std::int64_t first = std::min(begin, slice.count);
        return Slice{slice.first + first, std::min(step, slice.count - first)};
      };
      if (comm_) STRATA_RETURN_IF_ERROR(exchange(args, step, piece, queue));
      const Slice own = piece(self());
      if (own.count == 0) continue;
      family_->gpu.table<ParallelGpuKernels>().add_in_rank_order(
          {.acc = args.acc + begin,
           .own = args.full + own.first,
           .others = comm_ ? reinterpret_cast<const float*>(queue.scratch().data()) : nullptr,
           .stride = step,
           .self = self(),
           .ranks = size().v,
           .n = own.count,
           .overwrite = args.overwrite},
          queue);
    }
    return {};
  }

  template <class Piece>
  Status exchange(const ReduceScatterArgs& args, std::int64_t stride, const Piece& piece, GpuQueue& queue) {
    const auto bytes = [](std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); };
    std::vector<NcclComm::Send> sends;
    std::vector<NcclComm::Receive> receives;
    std::byte* place = queue.scratch().data();
    const Slice own = piece(self());
    for (int r = 0; r < size().v; ++r) {
      if (r == self()) continue;
      if (const Slice theirs = piece(r); theirs.count > 0)
        sends.push_back({.from = args.full + theirs.first, .bytes = bytes(theirs.count), .to = r});
      if (own.count > 0) receives.push_back({.to = place, .bytes = bytes(own.count), .from = r});
      place += bytes(stride);
    }
    return sends.empty() && receives.empty() ? Status() : settled(comm_->exchange(sends, receives, queue));
  }

  // What is still on its way arrives; after an error there is nothing to wait for.
  void leave() {
    while (track_->failure().ok() && !track_->is_idle()) std::this_thread::sleep_for(kPoll);
    if (track_->failure().ok() && comm_->finalize().ok()) {
      const auto deadline = std::chrono::steady_clock::now() + kLeaveTimeout;
      while (std::chrono::steady_clock::now() < deadline) {
        const auto state = comm_->poll();
        if (!state.ok() || *state == NcclComm::State::ready) break;
        std::this_thread::sleep_for(kPoll);
      }
    }
    track_.reset();
  }

  const std::unique_ptr<Communicator> inner_;
  const std::shared_ptr<Family> family_;
  const std::string key_;
  std::unique_ptr<NcclMonitor::Track> track_;
  std::unique_ptr<NcclComm> comm_;
  int copies_ = 0;
};

Result<std::unique_ptr<Communicator>> open(std::unique_ptr<Communicator> inner, std::shared_ptr<Family> family,
                                           const std::string& key) {
  auto track = inner->size().v > 1 ? family->monitor->track(key) : nullptr;
  auto made = std::make_unique<NcclCommunicator>(std::move(inner), std::move(family), key, std::move(track));
  if (made->size().v > 1) STRATA_RETURN_IF_ERROR(made->connect());
  return std::unique_ptr<Communicator>(std::move(made));
}

Result<std::unique_ptr<Communicator>> NcclCommunicator::duplicate() {
  std::unique_ptr<Communicator> copy;
  STRATA_RETURN_IF_ERROR(control([&]() -> Status {
    STRATA_ASSIGN_OR_RETURN(copy, inner_->duplicate());
    return {};
  }));
  return open(std::move(copy), family_, key_ + "." + std::to_string(++copies_));
}

}  // namespace

Result<std::unique_ptr<Communicator>> make_nccl_communicator(std::unique_ptr<Communicator> inner, std::shared_ptr<NcclApi> nccl,
                                                             GpuDriver& gpu, const NcclOptions& options) {
  STRATA_CHECK(nccl != nullptr || inner->size().v == 1, "only a group of one needs no NCCL");
  STRATA_CHECK(options.axis.size() <= 40, "the name of an axis is short");
  STRATA_ASSIGN_OR_RETURN(std::vector<std::string> names, agree_on_nccl_options(*inner, options));
  const auto least = static_cast<std::size_t>(inner->size().v - 1) * kChunkAlignment * sizeof(float);
  if (options.scratch_bytes < least)
    return Status(Code::invalid_argument, "a group of " + std::to_string(inner->size().v) + " GPUs needs " +
                                              std::to_string(least) + " bytes of scratch at least, not " +
                                              std::to_string(options.scratch_bytes));
  std::unique_ptr<NcclMonitor> monitor;
  if (inner->size().v > 1) {
    STRATA_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> line, inner->duplicate());
    monitor = std::make_unique<NcclMonitor>(
        std::move(line),
        NcclMonitor::Options{.names = std::move(names), .timeout = options.timeout, .interval = options.interval});
  }
  auto family = std::make_shared<Family>(Family{std::move(nccl), gpu, options, std::move(monitor)});
  return open(std::move(inner), std::move(family), options.axis);
}

}  // namespace strata
