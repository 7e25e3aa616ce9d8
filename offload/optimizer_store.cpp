#include "offload/optimizer_store.h"

#include <algorithm>

#include "optim/gpu_kernels.h"
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
    : layout_(layout),
      options_(options),
      params_(params),
      grads_(grads),
      streams_(streams),
      separate_(streams.update.device().has_separate_memory()) {}

OptimizerStore::~OptimizerStore() {
  // Operations in flight refer to the windows and the file.
  for (const StreamRef stream :
       {streams_.nvme_read, streams_.gpu_to_cpu, streams_.update, streams_.cpu_to_gpu, streams_.nvme_write, streams_.host})
    (void)stream.record().drain();
}

Result<std::unique_ptr<OptimizerStore>> OptimizerStore::create(const StateLayout& layout, Rank rank,
                                                               const OptimizerStoreOptions& options, TierArena& gpu,
                                                               TierArena& cpu, ParamStore& params, GradStore& grads,
                                                               const UpdateStreams& streams, std::vector<std::string>* notes) {
  std::unique_ptr<OptimizerStore> store(new OptimizerStore(layout, options, params, grads, streams));
  store->records_ = cut(layout, rank, options.zero_stage, options.record_size);
  store->homes_.resize(store->records_.size());
  STRATA_RETURN_IF_ERROR(store->allocate(gpu, cpu, notes));
  return store;
}

std::size_t OptimizerStore::payload_bytes(const OptimizerRecord& record) const {
  const std::int64_t before_last = has_master() ? 2 : 1;
  return static_cast<std::size_t>(before_last * stride(record) + record.range.count) * sizeof(float);
}

Status OptimizerStore::allocate(TierArena& gpu, TierArena& cpu, std::vector<std::string>* notes) {
  if (separate_) STRATA_RETURN_IF_ERROR(allocate_staging(cpu));
  if (options_.home != Tier::nvme) {
    TierArena& home = options_.home == Tier::gpu ? gpu : cpu;
    for (std::size_t r = 0; r < records_.size(); ++r) {
      const std::string what = "optimizer state of " + layout_.units[static_cast<std::size_t>(records_[r].unit)].name;
      STRATA_ASSIGN_OR_RETURN(homes_[r].memory, home.allocate(payload_bytes(records_[r]), Category::optimizer, what.c_str()));
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

Status OptimizerStore::allocate_staging(TierArena& cpu) {
  std::int64_t longest = 0;
  for (const OptimizerRecord& record : records_) longest = std::max(longest, record.range.count);
  const auto n = static_cast<std::size_t>(longest);
  if (!staged()) {
    STRATA_ASSIGN_OR_RETURN(image_, cpu.allocate(3 * n * sizeof(float), Category::io, "host image of an optimizer record"));
    return {};
  }
  staging_.resize(std::min(kWindows, std::max<std::size_t>(1, records_.size())));
  for (Staging& s : staging_) {
    STRATA_ASSIGN_OR_RETURN(s.grads, cpu.allocate(n * sizeof(float), Category::io, "window of gradients"));
    if (options_.compute == DType::f32) continue;
    STRATA_ASSIGN_OR_RETURN(s.params, cpu.allocate(n * sizeof(bf16), Category::io, "window of parameters"));
  }
  return {};
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

std::byte* OptimizerStore::stored_params(std::size_t r) const {
  const OptimizerRecord& record = records_[r];
  const std::int64_t skip = record.range.first - params_.stored_slice(record.unit).first;
  return params_.stored(record.unit).data + static_cast<std::size_t>(skip) * size_of(options_.compute);
}

RecordState OptimizerStore::state_in(std::size_t r, std::byte* memory) const {
  const OptimizerRecord& record = records_[r];
  auto* values = reinterpret_cast<float*>(memory);
  RecordState state;
  if (has_master()) {
    state.p = values;
    values += stride(record);
  } else {
    state.p = reinterpret_cast<float*>(stored_params(r));
  }
  state.m = values;
  state.v = values + stride(record);
  return state;
}

std::byte* OptimizerStore::bring(std::size_t r, bool load) {
  if (options_.home != Tier::nvme) return homes_[r].memory.data();
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
  if (options_.home != Tier::nvme) return;
  Window& w = window(r);
  w.free = streams_.update.record();
  if (!changed) return;
  streams_.nvme_write.wait(w.free);
  if (staged()) streams_.nvme_write.wait(staging(r).free);  // which may copy from the window
  const std::span<std::byte> buffer(memory, w.memory.size());
  streams_.nvme_write.enqueue("nvme write", [this, r, buffer, version = ++homes_[r].version] {
    return file_->write(*write_engine_, RecordId{static_cast<std::int64_t>(r)}, version, buffer);
  });
  w.free = homes_[r].written = streams_.nvme_write.record();
}

void OptimizerStore::enqueue_update(std::size_t r, RecordState state, const float* grads, bf16* p16,
                                    const AdamWScalars& scalars) {
  const OptimizerRecord& record = records_[r];
  std::vector<AdamWSlice> slices;
  for (const DecayRun& run : decay_runs(layout_.units[static_cast<std::size_t>(record.unit)], record.range)) {
    const std::int64_t at = run.range.first - record.range.first;
    slices.push_back({.p = state.p + at,
                      .m = state.m + at,
                      .v = state.v + at,
                      .g = grads + at,
                      .p16 = p16 == nullptr ? nullptr : p16 + at,
                      .n = run.range.count,
                      .decay = run.decay});
  }
  if (streams_.update.on_gpu()) {
    const OptimGpuKernels& kernels = streams_.update.device().gpu().table<OptimGpuKernels>();
    const GpuOperation operation(streams_.update, "adamw");
    for (const AdamWSlice& slice : slices) kernels.adamw_update(slice, scalars, operation.queue());
    return;
  }
  streams_.update.enqueue("adamw", [slices = std::move(slices), scalars, &pool = streams_.update.device().pool()] {
    for (const AdamWSlice& slice : slices) adamw_update(slice, scalars, pool);
    return Status();
  });
}

void OptimizerStore::step_record(std::size_t r, const AdamWScalars& scalars) {
  const OptimizerRecord& record = records_[r];
  const GradStore::UpdateView view = grads_.for_update(record.unit);
  const float* grads = view.values + (record.range.first - view.first);
  bf16* p16 = options_.compute == DType::f32 ? nullptr : reinterpret_cast<bf16*>(stored_params(r));
  if (staged()) {
    Staging& s = staging(r);
    streams_.gpu_to_cpu.wait(s.free);
    copy_async(grads, s.grads.data(), static_cast<std::size_t>(record.range.count) * sizeof(float), streams_.gpu_to_cpu);
    streams_.update.wait(streams_.gpu_to_cpu.record());
    grads = reinterpret_cast<const float*>(s.grads.data());
    p16 = reinterpret_cast<bf16*>(s.params.data());
  }
  std::byte* memory = bring(r, true);
  const RecordState state = state_in(r, memory);
  enqueue_update(r, state, grads, p16, scalars);
  if (staged()) send_up(r, state);
  put_back(r, memory, true);
}

void OptimizerStore::send_up(std::size_t r, RecordState state) {
  Staging& s = staging(r);
  const void* from = s.params ? static_cast<const void*>(s.params.data()) : state.p;
  streams_.cpu_to_gpu.wait(streams_.update.record());
  copy_async(from, stored_params(r), static_cast<std::size_t>(records_[r].range.count) * size_of(options_.compute),
             streams_.cpu_to_gpu);
  s.free = streams_.cpu_to_gpu.record();
}

void OptimizerStore::enqueue_refresh(std::size_t r, RecordState state) {
  if (options_.compute == DType::f32) return;
  bf16* p16 = reinterpret_cast<bf16*>(staged() ? staging(r).params.data() : stored_params(r));
  streams_.update.enqueue("refresh compute copy", [p = state.p, p16, n = records_[r].range.count] {
    kernels::cast_f32_to_bf16(p, p16, n);
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
      grads_.hold(u, staged() ? streams_.gpu_to_cpu.record() : streams_.update.record());
      params_.publish(u, updated());
    }
  }
}

void OptimizerStore::step(const AdamWScalars& scalars, const Event& after) {
  const StreamRef reader = staged() ? streams_.gpu_to_cpu : streams_.update;  // of the gradients
  reader.wait(after);
  for_each_unit([&](int u) { reader.wait(grads_.summed(u)); }, [&](std::size_t r) { step_record(r, scalars); }, true);
}

Status OptimizerStore::fill(const std::function<Status(const OptimizerRecord&, RecordState)>& fill) {
  if (image_) return fill_on_gpu(fill);
  for_each_unit(
      nullptr,
      [&](std::size_t r) {
        if (staged()) streams_.update.wait(staging(r).free);
        std::byte* memory = bring(r, false);
        const RecordState state = state_in(r, memory);
        streams_.update.enqueue("fill record", [&, r, state] { return fill(records_[r], state); });
        enqueue_refresh(r, state);
        if (staged()) send_up(r, state);
        put_back(r, memory, true);
      },
      true);
  STRATA_RETURN_IF_ERROR(streams_.update.synchronize());
  STRATA_RETURN_IF_ERROR(streams_.cpu_to_gpu.synchronize());
  return streams_.nvme_write.synchronize();
}

Status OptimizerStore::visit(const std::function<Status(const OptimizerRecord&, RecordState)>& visit) {
  if (image_) return visit_on_gpu(visit);
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

RecordState OptimizerStore::image_of(std::size_t r) const {
  auto* values = reinterpret_cast<float*>(image_.data());
  const std::int64_t n = records_[r].range.count;
  return {.p = values, .m = values + n, .v = values + 2 * n};
}

void OptimizerStore::copy_state(std::size_t r, RecordState from, RecordState to, StreamRef stream) const {
  const std::size_t bytes = static_cast<std::size_t>(records_[r].range.count) * sizeof(float);
  copy_async(from.p, to.p, bytes, stream);
  copy_async(from.m, to.m, bytes, stream);
  copy_async(from.v, to.v, bytes, stream);
}

Status OptimizerStore::fill_on_gpu(const std::function<Status(const OptimizerRecord&, RecordState)>& fill) {
  for_each_unit(
      nullptr,
      [&](std::size_t r) {
        const RecordState image = image_of(r), state = state_in(r, homes_[r].memory.data());
        streams_.host.enqueue("fill record", [&, r, image] { return fill(records_[r], image); });
        streams_.cpu_to_gpu.wait(streams_.host.record());
        streams_.cpu_to_gpu.wait(streams_.update.record());
        copy_state(r, image, state, streams_.cpu_to_gpu);
        const Shape n{records_[r].range.count};
        if (options_.compute != DType::f32)
          kernels::cast(
              {.x = {reinterpret_cast<const std::byte*>(state.p), DType::f32, n}, .y = {stored_params(r), options_.compute, n}},
              streams_.cpu_to_gpu);
        const Event copied = streams_.cpu_to_gpu.record();
        streams_.host.wait(copied);
        streams_.update.wait(copied);
      },
      true);
  STRATA_RETURN_IF_ERROR(streams_.host.synchronize());
  return streams_.update.synchronize();
}

Status OptimizerStore::visit_on_gpu(const std::function<Status(const OptimizerRecord&, RecordState)>& visit) {
  streams_.gpu_to_cpu.wait(streams_.update.record());
  for_each_unit(
      nullptr,
      [&](std::size_t r) {
        const RecordState image = image_of(r);
        copy_state(r, state_in(r, homes_[r].memory.data()), image, streams_.gpu_to_cpu);
        streams_.host.wait(streams_.gpu_to_cpu.record());
        streams_.host.enqueue("visit record", [&, r, image] { return visit(records_[r], image); });
        streams_.gpu_to_cpu.wait(streams_.host.record());
      },
      false);
  return streams_.host.synchronize();
}

}  // namespace strata
