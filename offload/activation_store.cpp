#include "offload/activation_store.h"

#include <algorithm>

namespace strata {
namespace {

constexpr std::size_t kInFlight = 2;
// What lies in CPU memory side by side begins at multiples of this, so that copies are fast.
constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

std::size_t KeptActivations::bytes() const {
  std::size_t all = aligned(input ? input.ref().bytes() : 0);
  for (const Tensor& tensor : saved) all += aligned(tensor ? tensor.ref().bytes() : 0);
  return all;
}

ActivationStore::ActivationStore(const ActivationStoreOptions& options, TierArena& gpu, TierArena& cpu,
                                 const ActivationStreams& streams)
    : options_(options),
      gpu_(gpu),
      cpu_(cpu),
      streams_(streams),
      entries_(options.units.size() * static_cast<std::size_t>(options.micro_batches)),
      bytes_(options.units.size()),
      input_bytes_(options.units.size()) {
  STRATA_CHECK(options.prefetch >= 1, "what is away must come back before it is taken");
}

// Operations in flight refer to the memory and the file.
ActivationStore::~ActivationStore() {
  for (const StreamRef stream :
       {streams_.compute, streams_.gpu_to_cpu, streams_.nvme_write, streams_.nvme_read, streams_.cpu_to_gpu})
    (void)stream.record().drain();
}

Result<std::unique_ptr<ActivationStore>> ActivationStore::create(const ActivationStoreOptions& options, TierArena& gpu,
                                                                 TierArena& cpu, const ActivationStreams& streams,
                                                                 std::vector<std::string>* notes) {
  std::unique_ptr<ActivationStore> store(new ActivationStore(options, gpu, cpu, streams));
  STRATA_RETURN_IF_ERROR(store->open_file(notes));
  return store;
}

Status ActivationStore::open_file(std::vector<std::string>* notes) {
  std::vector<std::size_t> payloads;
  for (std::size_t u = 0; u < options_.units.size(); ++u) {
    first_record_.push_back(static_cast<std::int64_t>(payloads.size()));
    if (options_.units[u].home != Tier::nvme) continue;
    STRATA_CHECK(options_.bytes.size() == options_.units.size(), "the size of what goes to a file is known before it is made");
    payloads.insert(payloads.end(), static_cast<std::size_t>(options_.micro_batches), options_.bytes[u]);
  }
  // What is lost in a crash is computed again: one slot will do.
  STRATA_ASSIGN_OR_RETURN(file_, NvmeRecords::create(options_.nvme_files, payloads, 1, options_.nvme, streams_.nvme_read,
                                                     streams_.nvme_write, {}, notes));
  return {};
}

std::int64_t ActivationStore::file_record(int u, int index) const { return first_record_[static_cast<std::size_t>(u)] + index; }

Buffer ActivationStore::take_memory(std::size_t bytes, Category category, int u) {
  Result<Buffer> buffer = cpu_.allocate(bytes, category, ("activations of unit " + std::to_string(u)).c_str());
  throw_if_error(buffer.status());
  return std::move(buffer).value();
}

void ActivationStore::wait_for_freed_memory(StreamRef stream) {
  stream.wait(freed_by_write_);
  stream.wait(freed_by_fetch_);
}

void ActivationStore::make_room(int u) {
  if (!away(u)) return;
  while (leaving_.size() >= kInFlight) {
    streams_.compute.wait(leaving_.front().done);
    leaving_.pop_front();
  }
}

void ActivationStore::keep(int u, int index, KeptActivations kept) {
  bytes_[static_cast<std::size_t>(u)] = kept.bytes();
  input_bytes_[static_cast<std::size_t>(u)] = aligned(kept.input ? kept.input.ref().bytes() : 0);
  if (away(u) && kept.bytes() > 0) return send_away(u, index, std::move(kept));
  entry(u, index).kept = std::move(kept);
}

void ActivationStore::send_away(int u, int index, KeptActivations kept) {
  const bool to_file = placement(u).home == Tier::nvme;
  const std::size_t bytes = kept.bytes();
  STRATA_CHECK(!to_file || bytes == options_.bytes[static_cast<std::size_t>(u)],
               "unit " + std::to_string(u) + " keeps as much as was planned");
  if (to_file && writing_.size() >= kInFlight) {
    freed_by_write_ = writing_.front().done;
    writing_.pop_front();
  }
  Buffer memory =
      take_memory(to_file ? NvmeRecords::window_bytes(bytes) : bytes, to_file ? Category::io : Category::activations, u);
  Entry& away = entry(u, index);
  away = {};
  streams_.gpu_to_cpu.wait(streams_.compute.record());
  wait_for_freed_memory(streams_.gpu_to_cpu);
  std::size_t offset = 0;
  const auto send = [&](const Tensor& tensor) {
    away.shells.push_back({tensor.dtype(), tensor.shape(), !tensor});
    if (!tensor) return;
    const TensorRef from = tensor;
    copy_async(from.data, memory.data() + offset, from.bytes(), streams_.gpu_to_cpu, static_cast<double>(from.bytes()));
    offset += aligned(from.bytes());
  };
  send(kept.input);
  for (const Tensor& tensor : kept.saved) send(tensor);
  away.stored = streams_.gpu_to_cpu.record();
  leaving_.push_back({std::move(kept), away.stored});
  if (!to_file) {
    away.memory = std::move(memory);
    return;
  }
  streams_.nvme_write.wait(away.stored);
  file_->write(file_record(u, index), {memory.data(), memory.size()}, "nvme write activations", static_cast<double>(bytes));
  away.stored = streams_.nvme_write.record();
  writing_.push_back({std::move(memory), away.stored});
}

void ActivationStore::begin_backward(std::vector<std::pair<int, int>> order) {
  STRATA_CHECK(coming_back_.empty(), "a backward has ended before the next one begins");
  for (const Leaving& one : leaving_) streams_.compute.wait(one.done);
  leaving_.clear();
  // The last of these is read first, so nothing waits for them in vain.
  if (!writing_.empty()) freed_by_write_ = writing_.back().done;
  writing_.clear();
  for (const auto& [u, index] : order)
    if (!entry(u, index).shells.empty()) coming_back_.emplace_back(u, index);
}

void ActivationStore::start_reading(int u, int index) {
  Entry& away = entry(u, index);
  if (placement(u).home != Tier::nvme || away.reading) return;
  away.reading = true;
  const std::size_t bytes = options_.bytes[static_cast<std::size_t>(u)];
  away.memory = take_memory(NvmeRecords::window_bytes(bytes), Category::io, u);
  streams_.nvme_read.wait(away.stored);
  wait_for_freed_memory(streams_.nvme_read);
  file_->read(file_record(u, index), {away.memory.data(), away.memory.size()}, "nvme read activations",
              static_cast<double>(bytes));
  away.stored = streams_.nvme_read.record();
}

void ActivationStore::start_fetching(int u, int index) {
  Entry& away = entry(u, index);
  if (away.fetching) return;
  start_reading(u, index);
  away.fetching = true;
  std::vector<Tensor> tensors;
  for (const Shell& shell : away.shells)
    tensors.push_back(shell.empty ? Tensor() : Tensor(gpu_, Category::activations, shell.dtype, shell.shape, "activations"));
  streams_.cpu_to_gpu.wait(streams_.compute.record());  // their memory is free
  streams_.cpu_to_gpu.wait(away.stored);
  std::size_t offset = 0;
  for (const Tensor& tensor : tensors) {
    if (!tensor) continue;
    const TensorRef to = tensor;
    copy_async(away.memory.data() + offset, to.data, to.bytes(), streams_.cpu_to_gpu, static_cast<double>(to.bytes()));
    offset += aligned(to.bytes());
  }
  away.fetched = streams_.cpu_to_gpu.record();
  away.kept.input = std::move(tensors.front());
  tensors.erase(tensors.begin());
  away.kept.saved = std::move(tensors);
}

void ActivationStore::prefetch() {
  const auto ahead = static_cast<std::size_t>(options_.prefetch);
  for (std::size_t i = 0; i < std::min(ahead, coming_back_.size()); ++i)
    start_fetching(coming_back_[i].first, coming_back_[i].second);
  if (coming_back_.size() > ahead) start_reading(coming_back_[ahead].first, coming_back_[ahead].second);
}

KeptActivations ActivationStore::take(int u, int index) {
  Entry& one = entry(u, index);
  if (!one.shells.empty()) {
    STRATA_CHECK(!coming_back_.empty() && coming_back_.front() == std::pair(u, index), "activations are taken in order");
    start_fetching(u, index);
    coming_back_.pop_front();
    streams_.compute.wait(one.fetched);
    freed_by_fetch_ = one.fetched;
  }
  KeptActivations kept = std::move(one.kept);
  one = {};
  return kept;
}

}  // namespace strata
