#include "offload/optimizer_store.h"

#include <algorithm>

#include "runtime/kernels/elementwise.h"

namespace strata {
namespace {

constexpr std::size_t kWindows = 3;  // one being read, one being updated, one being written

}  // namespace

std::vector<OptimizerRecord> OptimizerStore::cut(const StateLayout& layout, Rank rank, int zero_stage,
                                                 std::int64_t record_size) {
  const std::int64_t size = std::max<std::int64_t>(1, (record_size + kLayoutBlock - 1) / kLayoutBlock) * kLayoutBlock;
  std::vector<OptimizerRecord> records;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    const UnitLayout& unit = layout.units[u];
    const Slice mine = zero_stage == 0 ? Slice{0, unit.numel} : unit.slices[static_cast<std::size_t>(rank.v)];
    for (const Slice& range : cut_records(mine, size)) records.push_back({static_cast<int>(u), range});
  }
  return records;
}

OptimizerStore::OptimizerStore(const StateLayout& layout, const OptimizerStoreOptions& options, ParamStore& params,
                               GradStore& grads, const UpdateStreams& streams)
    : layout_(layout), options_(options), params_(params), grads_(grads), streams_(streams) {}

OptimizerStore::~OptimizerStore() {
  // Operations in flight refer to the windows and the file.
  for (const StreamRef stream : {streams_.nvme_read, streams_.update, streams_.nvme_write}) (void)stream.record().drain();
}

Result<std::unique_ptr<OptimizerStore>> OptimizerStore::create(const StateLayout& layout, Rank rank,
                                                               const OptimizerStoreOptions& options, TierArena& cpu,
                                                               ParamStore& params, GradStore& grads,
                                                               const UpdateStreams& streams, std::vector<std::string>* notes) {
  STRATA_CHECK(options.home != Tier::gpu, "records live in cpu or nvme");
  std::unique_ptr<OptimizerStore> store(new OptimizerStore(layout, options, params, grads, streams));
  store->records_ = cut(layout, rank, options.zero_stage, options.record_size);
  store->homes_.resize(store->records_.size());
  STRATA_RETURN_IF_ERROR(store->allocate(cpu, notes));
  return store;
}

std::size_t OptimizerStore::payload_bytes(const OptimizerRecord& record) const {
  const std::int64_t before_last = options_.master ? 2 : 1;
  return static_cast<std::size_t>(before_last * stride(record) + record.range.count) * sizeof(float);
}

Status OptimizerStore::allocate(TierArena& cpu, std::vector<std::string>* notes) {
  if (options_.home == Tier::cpu) {
    for (std::size_t r = 0; r < records_.size(); ++r) {
      const std::string what = "optimizer state of " + layout_.units[static_cast<std::size_t>(records_[r].unit)].name;
      STRATA_ASSIGN_OR_RETURN(homes_[r].memory, cpu.allocate(payload_bytes(records_[r]), Category::optimizer, what.c_str()));
    }
    return {};
  }
  std::vector<std::size_t> payloads;
  for (const OptimizerRecord& record : records_) payloads.push_back(payload_bytes(record));
  nvme_bytes_ = RecordFile::file_bytes(payloads);
  std::size_t largest = 0;
  for (const std::size_t bytes : payloads) largest = std::max(largest, RecordFile::buffer_bytes_for(bytes));
  windows_.resize(std::min(kWindows, std::max<std::size_t>(1, records_.size())));
  for (Window& w : windows_) {
    STRATA_ASSIGN_OR_RETURN(w.memory, cpu.allocate(largest, Category::io, "window of optimizer records"));
  }
  if (streams_.update.backend() == Backend::dry || records_.empty()) return {};
  return open_file(payloads, notes);
}

Status OptimizerStore::open_file(const std::vector<std::size_t>& payloads, std::vector<std::string>* notes) {
  STRATA_ASSIGN_OR_RETURN(file_, RecordFile::create(options_.nvme_file, payloads));
  std::string why_read, why_write;
  STRATA_ASSIGN_OR_RETURN(read_engine_, options_.make_engine(options_.io, &why_read));
  STRATA_ASSIGN_OR_RETURN(write_engine_, options_.make_engine(options_.io, &why_write));
  if (notes == nullptr) return {};
  const std::string path = options_.nvme_file + ": ";
  if (!file_->why_buffered().empty()) notes->push_back(path + "goes through the page cache: " + file_->why_buffered());
  if (!why_read.empty()) notes->push_back(path + why_read);
  if (!why_write.empty() && why_write != why_read) notes->push_back(path + why_write);
  return {};
}

RecordState OptimizerStore::state_in(std::size_t r, std::byte* memory) const {
  const OptimizerRecord& record = records_[r];
  auto* values = reinterpret_cast<float*>(memory);
  RecordState state;
  if (options_.master) {
    state.p = values;
    values += stride(record);
  } else {
    const std::int64_t skip = record.range.first - params_.stored_slice(record.unit).first;
    state.p = reinterpret_cast<float*>(params_.stored(record.unit).data) + skip;
  }
  state.m = values;
  state.v = values + stride(record);
  return state;
}

std::byte* OptimizerStore::bring(std::size_t r, bool load) {
  if (options_.home == Tier::cpu) return homes_[r].memory.data();
  Window& w = window(r);
  std::byte* data = w.memory.data();
  if (!load) {
    streams_.update.wait(w.free);
    return data;
  }
  streams_.nvme_read.wait(w.free);
  streams_.nvme_read.wait(homes_[r].written);
  const std::span<std::byte> buffer(data, w.memory.size());
  streams_.nvme_read.enqueue("nvme read", [this, r, buffer, version = homes_[r].version] {
    return file_->read(*read_engine_, RecordId{static_cast<std::int64_t>(r)}, version, buffer);
  });
  streams_.update.wait(streams_.nvme_read.record());
  return data;
}

void OptimizerStore::put_back(std::size_t r, std::byte* memory, bool changed) {
  if (options_.home == Tier::cpu) return;
  Window& w = window(r);
  w.free = streams_.update.record();
  if (!changed) return;
  streams_.nvme_write.wait(w.free);
  const std::span<std::byte> buffer(memory, w.memory.size());
  streams_.nvme_write.enqueue("nvme write", [this, r, buffer, version = ++homes_[r].version] {
    return file_->write(*write_engine_, RecordId{static_cast<std::int64_t>(r)}, version, buffer);
  });
  w.free = homes_[r].written = streams_.nvme_write.record();
}

void OptimizerStore::enqueue_update(std::size_t r, RecordState state, const AdamWScalars& scalars) {
  const GradStore::UpdateView grad = grads_.for_update(records_[r].unit);
  streams_.update.enqueue("adamw", [this, r, state, scalars, grad] {
    const OptimizerRecord& record = records_[r];
    const TensorRef stored = params_.stored(record.unit);
    const std::int64_t stored_first = params_.stored_slice(record.unit).first;
    for (const DecayRun& run : decay_runs(layout_.units[static_cast<std::size_t>(record.unit)], record.range)) {
      const std::int64_t at = run.range.first - record.range.first;
      AdamWSlice slice;
      slice.p = state.p + at;
      slice.m = state.m + at;
      slice.v = state.v + at;
      slice.g = grad.values + (run.range.first - grad.first);
      if (options_.master) slice.p16 = reinterpret_cast<bf16*>(stored.data) + (run.range.first - stored_first);
      slice.n = run.range.count;
      slice.decay = run.decay;
      adamw_update(slice, scalars, streams_.update.device().pool());
    }
    return Status();
  });
}

void OptimizerStore::enqueue_refresh(std::size_t r, RecordState state) {
  if (!options_.master) return;
  streams_.update.enqueue("refresh compute copy", [this, r, state] {
    const OptimizerRecord& record = records_[r];
    auto* p16 = reinterpret_cast<bf16*>(params_.stored(record.unit).data) +
                (record.range.first - params_.stored_slice(record.unit).first);
    kernels::cast_f32_to_bf16(state.p, p16, record.range.count);
    return Status();
  });
}

void OptimizerStore::for_each_unit(const std::function<void(int u)>& before, const std::function<void(std::size_t r)>& each,
                                   bool publish) {
  std::size_t r = 0;
  for (int u = 0; u < static_cast<int>(layout_.units.size()); ++u) {
    if (before) before(u);
    for (; r < records_.size() && records_[r].unit == u; ++r) each(r);
    if (publish) {
      const Event updated = streams_.update.record();
      grads_.hold(u, updated);
      params_.publish(u, updated);
    }
  }
}

void OptimizerStore::step(const AdamWScalars& scalars, const Event& after) {
  streams_.update.wait(after);
  for_each_unit([&](int u) { streams_.update.wait(grads_.summed(u)); },
                [&](std::size_t r) {
                  std::byte* memory = bring(r, true);
                  enqueue_update(r, state_in(r, memory), scalars);
                  put_back(r, memory, true);
                },
                true);
}

Status OptimizerStore::fill(const std::function<Status(const OptimizerRecord&, RecordState)>& fill) {
  for_each_unit(
      nullptr,
      [&](std::size_t r) {
        std::byte* memory = bring(r, false);
        const RecordState state = state_in(r, memory);
        streams_.update.enqueue("fill record", [&, r, state] { return fill(records_[r], state); });
        enqueue_refresh(r, state);
        put_back(r, memory, true);
      },
      true);
  STRATA_RETURN_IF_ERROR(streams_.update.synchronize());
  return streams_.nvme_write.synchronize();
}

Status OptimizerStore::visit(const std::function<Status(const OptimizerRecord&, RecordState)>& visit) {
  for_each_unit(
      nullptr,
      [&](std::size_t r) {
        std::byte* memory = bring(r, true);
        const RecordState state = state_in(r, memory);
        streams_.update.enqueue("visit record", [&, r, state] { return visit(records_[r], state); });
        put_back(r, memory, false);
      },
      false);
  return streams_.update.synchronize();
}

}  // namespace strata
