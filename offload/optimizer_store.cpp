#include "offload/optimizer_store.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "nvme/gpu_record_memory.h"
#include "offload/array_stride.h"
#include "optim/state_noise.h"
#include "runtime/kernels/elementwise.h"

namespace strata {

void zero(const OptimizerRecord& record, const RecordState& state) {
  std::fill_n(state.p, record.range.count, 0.0f);
  for (std::size_t k = 0; k < state.count; ++k) {
    std::fill_n(state.states[k], state.format.bytes(record.states), std::byte{0});
    if (state.apart_count > 0) std::fill_n(state.apart[k], state.apart_count, 0.0f);
  }
}

OptimizerStore::OptimizerStore(const StateLayout& layout, const OptimizerStoreOptions& options, ParamStore& params,
                               GradStore& grads, const UpdateStreams& streams)
    : layout_(layout),
      options_(options),
      params_(params),
      grads_(grads),
      streams_(streams),
      units_(options.freeze, static_cast<int>(layout.units.size())),
      choices_(layout_, *options_.method, options_.groups),
      turns_(layout_, *options_.method, options_.groups),
      rows_(layout_, *options_.method, options_.groups,
            {streams.cpu_update, streams.gpu_update, streams.gpu_to_cpu, streams.cpu_to_gpu, streams.host}),
      distances_(layout_, streams.cpu_update, streams.gpu_update, streams.gpu_to_cpu),
      separate_(streams.cpu_update.device().has_separate_memory()) {}

OptimizerStore::~OptimizerStore() {
  // Operations in flight refer to the windows and the file.
  for (const StreamRef stream : {streams_.nvme_read, streams_.gpu_to_cpu, streams_.cpu_update, streams_.gpu_update,
                                 streams_.cpu_to_gpu, streams_.nvme_write, streams_.host})
    (void)stream.record().drain();
}

Result<std::unique_ptr<OptimizerStore>> OptimizerStore::create(const StateLayout& layout, Rank rank,
                                                               const OptimizerStoreOptions& options, TierArena& gpu,
                                                               TierArena& cpu, ParamStore& params, GradStore& grads,
                                                               const UpdateStreams& streams, std::vector<std::string>* notes) {
  std::unique_ptr<OptimizerStore> store(new OptimizerStore(layout, options, params, grads, streams));
  store->make_plan(rank);
  STRATA_RETURN_IF_ERROR(store->allocate(rank, gpu, cpu, notes));
  return store;
}

void OptimizerStore::make_plan(Rank rank) {
  UpdateShape shape;
  shape.units = static_cast<int>(layout_.units.size());
  shape.records =
      cut_optimizer_records(layout_, rank, options_.zero_stage, options_.record_size, *options_.method, options_.groups);
  for (const OptimizerRecord& record : shape.records)
    pieces_.push_back(state_pieces(layout_, record, *options_.method, options_.groups));
  shape.separate_memory = separate_;
  shape.gpu_direct = options_.nvme.gpu_direct;
  shape.compute = options_.compute;
  shape.grads = grads_.dtype();
  shape.states = static_cast<int>(options_.method->states().size());
  shape.format = options_.method->state_format();
  shape.two_passes = rows_.measures();
  for (int u = 0; u < shape.units; ++u) shape.unit_placements.push_back({params_.home(u), grads_.home(u)});
  STRATA_CHECK(options_.home || options_.homes.size() == shape.records.size(), "every record has a home");
  for (std::size_t r = 0; r < shape.records.size(); ++r)
    shape.placements.push_back({options_.home ? *options_.home : options_.homes[r], false});
  ComputeShape& compute = options_.compute_shape;
  compute.units = shape.units;
  units_.move_to(1);
  shape.frozen = compute.frozen = units_.frozen();
  for (int u = 0; u < shape.units; ++u) shape.shares_states.push_back(units_.shares_states(u) ? 1 : 0);
  for (std::size_t r = 0; r < shape.records.size(); ++r)
    number_in_unit_.push_back(r > 0 && shape.records[r].unit == shape.records[r - 1].unit ? number_in_unit_.back() + 1 : 0);
  plan_ = plan_updates(shape, options_.share, compute, options_.rates);
  slots_.resize(static_cast<std::size_t>(plan_.schedule.slots.count()) + 4);
}

std::size_t OptimizerStore::payload_bytes(std::size_t r) const {
  const OptimizerRecord& record = records()[r];
  std::int64_t bytes = 0, next = 0;
  const auto add = [&](std::int64_t n) {
    if (n > 0) bytes = next + n;
    next += array_stride(n);
  };
  if (has_master(plan_.schedule.shape, r)) add(kF32States.bytes(record.range.count));
  for (std::size_t k = 0; k < states(); ++k) add(format().bytes(record.states));
  return static_cast<std::size_t>(bytes);
}

std::size_t OptimizerStore::home_bytes(std::size_t r) const {
  if (!shares(r)) return payload_bytes(r);
  return has_master(plan_.schedule.shape, r) ? static_cast<std::size_t>(records()[r].range.count) * sizeof(float) : 0;
}

std::size_t OptimizerStore::shared_bytes(std::size_t r) const {
  const std::int64_t bytes = format().bytes(records()[r].states);
  return states() == 0 ? 0 : static_cast<std::size_t>(static_cast<std::int64_t>(states() - 1) * array_stride(bytes) + bytes);
}

// Large enough for the largest record of its number.
Status OptimizerStore::allocate_shared(TierArena& gpu, TierArena& cpu) {
  std::array<std::vector<std::size_t>, 2> bytes;
  for (std::size_t r = 0; r < records().size(); ++r) {
    if (!shares(r) || !units_.is_block(records()[r].unit)) continue;
    std::vector<std::size_t>& of_tier = bytes[placement(r).home == Tier::gpu ? 0 : 1];
    of_tier.resize(std::max(of_tier.size(), number_in_unit_[r] + 1));
    of_tier[number_in_unit_[r]] = std::max(of_tier[number_in_unit_[r]], shared_bytes(r));
  }
  for (std::size_t t = 0; t < shared_.size(); ++t)
    for (const std::size_t n : bytes[t])
      for (int turn = 0; turn < units_.blocks_at_once(); ++turn) {
        STRATA_ASSIGN_OR_RETURN(
            Buffer buffer,
            (t == 0 ? gpu : cpu).allocate(n, Category::optimizer, "optimizer states of the blocks that are trained"));
        shared_[t].push_back(std::move(buffer));
      }
  return {};
}

const Buffer& OptimizerStore::shared_memory(std::size_t r) const {
  const std::size_t at = number_in_unit_[r] * static_cast<std::size_t>(units_.blocks_at_once());
  return shared_[placement(r).home == Tier::gpu ? 0 : 1][at + static_cast<std::size_t>(units_.turn(records()[r].unit))];
}

Status OptimizerStore::allocate(Rank rank, TierArena& gpu, TierArena& cpu, std::vector<std::string>* notes) {
  STRATA_RETURN_IF_ERROR(allocate_windows(gpu, cpu));
  homes_.resize(records().size());
  shadows_.resize(records().size());
  file_records_.resize(records().size());
  std::vector<std::size_t> payloads;
  for (std::size_t r = 0; r < records().size(); ++r) {
    if (placement(r).home == Tier::nvme) {
      file_records_[r] = static_cast<std::int64_t>(payloads.size());
      payloads.push_back(payload_bytes(r));
      continue;
    }
    const std::string what = "optimizer state of " + layout_.units[static_cast<std::size_t>(records()[r].unit)].name;
    TierArena& home = placement(r).home == Tier::gpu ? gpu : cpu;
    STRATA_ASSIGN_OR_RETURN(homes_[r], home.allocate(home_bytes(r), Category::optimizer, what.c_str()));
    if (!needs_shadow(plan_.schedule.shape, r)) continue;
    STRATA_ASSIGN_OR_RETURN(shadows_[r], cpu.allocate(payload_bytes(r), Category::optimizer, ("second " + what).c_str()));
  }
  STRATA_RETURN_IF_ERROR(allocate_shared(gpu, cpu));
  std::vector<char> on_gpu;
  for (std::size_t r = 0; r < records().size(); ++r) on_gpu.push_back(route_of(plan_.schedule.shape, r).on_gpu ? 1 : 0);
  STRATA_RETURN_IF_ERROR(choices_.allocate(records(), on_gpu, streams_.gpu_update, gpu, cpu));
  STRATA_RETURN_IF_ERROR(turns_.allocate(records(), pieces_, on_gpu, gpu, cpu));
  hold_choice(-1, 0);
  STRATA_RETURN_IF_ERROR(rows_.allocate(records(), on_gpu, rank, options_.zero_stage, gpu, cpu));
  if (units_.measures()) {
    std::vector<char> blocks;
    for (int u = 0; u < plan_.schedule.shape.units; ++u) blocks.push_back(units_.is_block(u) ? 1 : 0);
    STRATA_RETURN_IF_ERROR(distances_.allocate(records(), blocks, on_gpu, gpu, cpu));
  }
  std::vector<std::span<std::byte>> windows;
  for (const Buffer& w : cpu_windows_) windows.emplace_back(w.data(), w.size());
  const std::optional<GpuDirectMemory> direct = direct_memory();
  STRATA_ASSIGN_OR_RETURN(file_,
                          NvmeRecords::create(options_.nvme_files, payloads, format::kSlots, options_.nvme, streams_.nvme_read,
                                              streams_.nvme_write, windows, notes, direct ? &*direct : nullptr));
  return {};
}

Status OptimizerStore::allocate_windows(TierArena& gpu, TierArena& cpu) {
  const WindowCounts& counts = plan_.schedule.windows;
  std::size_t in_file = 0, in_gpu = 0;
  std::int64_t longest = 0, longest_image = 0;
  bool some_direct = false, live_on_gpu = false, params_on_gpu = false, params_up = false, params_down = false,
       grads_down = false, grads_up = false;
  for (std::size_t r = 0; r < records().size(); ++r) {
    const UpdateRoute route = route_of(plan_.schedule.shape, r);
    const std::size_t in_window = NvmeRecords::window_bytes(payload_bytes(r));
    // Also of those that no CPU window serves in a step: fill() and visit() have the host look at them.
    if (route.reads_file) in_file = std::max(in_file, in_window);
    if (route.has_gpu_window()) in_gpu = std::max(in_gpu, route.direct ? in_window : payload_bytes(r));
    some_direct = some_direct || route.direct;
    live_on_gpu = live_on_gpu || placement(r).home == Tier::gpu;
    params_on_gpu = params_on_gpu || (!reaches_params(r) && !params_on_nvme(r));
    params_up = params_up || route.params_up;
    params_down = params_down || route.params_down;
    grads_down = grads_down || route.grads_down;
    grads_up = grads_up || route.grads_up;
    longest = std::max(longest, records()[r].range.count);
    longest_image = std::max(longest_image, kF32States.bytes(records()[r].range.count) +
                                                static_cast<std::int64_t>(states()) * format().bytes(records()[r].states));
  }
  const auto n = static_cast<std::size_t>(longest);
  const auto take = [](TierArena& from, std::size_t bytes, const char* what, std::vector<Buffer>& to) -> Status {
    STRATA_ASSIGN_OR_RETURN(Buffer buffer, from.allocate(bytes, Category::io, what));
    to.push_back(std::move(buffer));
    return {};
  };
  for (int w = 0; w < counts.cpu; ++w) STRATA_RETURN_IF_ERROR(take(cpu, in_file, "window of optimizer records", cpu_windows_));
  for (int w = 0; w < counts.gpu; ++w)
    STRATA_RETURN_IF_ERROR(take(gpu, in_gpu, "window of optimizer records on the GPU", gpu_windows_));
  if (some_direct) STRATA_RETURN_IF_ERROR(allocate_direct(gpu, cpu, in_file));
  for (int w = 0; w < counts.params; ++w)
    STRATA_RETURN_IF_ERROR(take(cpu, NvmeRecords::window_bytes(n * size_of(options_.compute)),
                                "window of parameters on their way to NVMe", params_windows_));
  for (int w = 0; w < counts.grads; ++w)
    STRATA_RETURN_IF_ERROR(take(cpu, NvmeRecords::window_bytes(n * size_of(grads_.dtype())),
                                "window of gradients on their way from NVMe", grads_windows_));
  const bool rounds = options_.compute != DType::f32;  // in f32, p itself is copied
  const auto stage = [&](TierArena& from, bool grads, bool params, int count, std::vector<Staging>& to) -> Status {
    to.resize(static_cast<std::size_t>(count));
    for (Staging& s : to) {
      if (grads) {
        STRATA_ASSIGN_OR_RETURN(s.grads, from.allocate(n * size_of(grads_.dtype()), Category::io, "window of gradients"));
      }
      if (params) {
        STRATA_ASSIGN_OR_RETURN(s.params, from.allocate(n * sizeof(bf16), Category::io, "window of parameters"));
      }
    }
    return {};
  };
  STRATA_RETURN_IF_ERROR(stage(cpu, grads_down, params_up && rounds, counts.staging, staging_));
  STRATA_RETURN_IF_ERROR(stage(gpu, grads_up, params_down && rounds, counts.gpu_staging, gpu_staging_));
  if (params_on_gpu && !params_up && rounds) {
    STRATA_ASSIGN_OR_RETURN(rounded_, cpu.allocate(n * sizeof(bf16), Category::io, "rounded parameters of a record"));
  }
  if (separate_ && live_on_gpu) {
    STRATA_ASSIGN_OR_RETURN(
        image_, cpu.allocate(static_cast<std::size_t>(longest_image), Category::io, "host image of an optimizer record"));
  }
  return {};
}

Status OptimizerStore::allocate_direct(TierArena& gpu, TierArena& cpu, std::size_t window_bytes) {
  if (plan_.schedule.windows.cpu == 0) {
    STRATA_ASSIGN_OR_RETURN(direct_image_, cpu.allocate(window_bytes, Category::io, "host image of a record on NVMe"));
  }
  if (streams_.nvme_read.device().planned() != Backend::cuda) return {};
  for (int way = 0; way < 2; ++way) {
    STRATA_ASSIGN_OR_RETURN(Buffer scratch,
                            gpu.allocate(GpuRecordMemory::kDeviceBytes, Category::io, "checksums of records on the GPU"));
    STRATA_ASSIGN_OR_RETURN(Buffer bounce, cpu.allocate(GpuRecordMemory::kHostBytes, Category::io, "headers of records"));
    direct_scratch_.push_back(std::move(scratch));
    direct_bounce_.push_back(std::move(bounce));
  }
  return {};
}

std::optional<GpuDirectMemory> OptimizerStore::direct_memory() const {
  const auto span_of = [](const Buffer& b) { return std::span<std::byte>(b.data(), b.size()); };
  bool some = false;
  for (std::size_t r = 0; r < records().size(); ++r) some = some || route_of(plan_.schedule.shape, r).direct;
  if (!some) return std::nullopt;
  GpuDirectMemory memory;
  for (const Buffer& w : gpu_windows_) memory.windows.push_back(span_of(w));
  if (direct_scratch_.empty()) return memory;
  memory.read_scratch = span_of(direct_scratch_[0]), memory.write_scratch = span_of(direct_scratch_[1]);
  memory.read_bounce = span_of(direct_bounce_[0]), memory.write_bounce = span_of(direct_bounce_[1]);
  return memory;
}

bool OptimizerStore::reaches_params(std::size_t r) const {
  const Tier home = params_.home(records()[r].unit);
  return home == Tier::cpu || (home == Tier::gpu && !separate_);
}

const OptimizerStore::Staging* OptimizerStore::staging_of(const Instruction& i) const {
  if (i.staging >= 0) return &staging_[static_cast<std::size_t>(i.staging)];
  return i.gpu_staging >= 0 ? &gpu_staging_[static_cast<std::size_t>(i.gpu_staging)] : nullptr;
}

std::byte* OptimizerStore::stored_params(std::size_t r) const {
  const OptimizerRecord& record = records()[r];
  const std::int64_t skip = record.range.first - params_.stored_slice(record.unit).first;
  return params_.stored(record.unit).data + static_cast<std::size_t>(skip) * size_of(options_.compute);
}

RecordState OptimizerStore::state_in(std::size_t r, std::byte* memory) const {
  const OptimizerRecord& record = records()[r];
  RecordState state{.format = format(), .count = states()};
  if (has_master(plan_.schedule.shape, r)) {
    state.p = reinterpret_cast<float*>(memory);
    memory += array_stride(kF32States.bytes(record.range.count));
  } else {
    state.p = reinterpret_cast<float*>(stored_params(r));
  }
  if (shares(r)) {
    if (units_.is_stateless(record.unit)) state.count = 0;
    if (state.count > 0) memory = shared_memory(r).data();
  }
  for (std::size_t k = 0; k < state.count; ++k, memory += array_stride(format().bytes(record.states))) state.states[k] = memory;
  return state;
}

StreamRef OptimizerStore::stream_of(Resource resource) const {
  switch (resource) {
    case Resource::gpu_to_cpu: return streams_.gpu_to_cpu;
    case Resource::cpu_to_gpu: return streams_.cpu_to_gpu;
    case Resource::cpu_update: return streams_.cpu_update;
    case Resource::gpu_update: return streams_.gpu_update;
    case Resource::nvme_read: return streams_.nvme_read;
    case Resource::nvme_write: return streams_.nvme_write;
    case Resource::compute: break;
  }
  STRATA_CHECK(false, "no part of an update computes the model");
  return streams_.host;
}

template <class Enqueue>
void OptimizerStore::ordered(StreamRef stream, std::span<const int> reads, std::span<const int> writes,
                             const Enqueue& enqueue) {
  const auto slot = [this](int s) -> SlotEvents& { return slots_[static_cast<std::size_t>(s)]; };
  for (const int s : reads) stream.wait(slot(s).written);
  for (const int s : writes) {
    stream.wait(slot(s).written);
    for (const Event& read : slot(s).read) stream.wait(read);
  }
  enqueue();
  const Event done = stream.record();
  for (const int s : reads) slot(s).read.push_back(done);
  for (const int s : writes) slot(s) = {done, {}};
}

std::byte* OptimizerStore::cpu_memory(const Instruction& i) const {
  return i.cpu_window >= 0 ? cpu_windows_[static_cast<std::size_t>(i.cpu_window)].data()
                           : homes_[static_cast<std::size_t>(i.record)].data();
}

std::byte* OptimizerStore::work_memory(const Instruction& i) const {
  return i.gpu_window >= 0 ? gpu_windows_[static_cast<std::size_t>(i.gpu_window)].data() : cpu_memory(i);
}

std::byte* OptimizerStore::result_memory(const Instruction& i) const {
  const auto r = static_cast<std::size_t>(i.record);
  return guess_ && i.gpu_window < 0 && shadows_[r] ? shadows_[r].data() : work_memory(i);
}

void OptimizerStore::enqueue_read(const Instruction& i) {
  const auto r = static_cast<std::size_t>(i.record);
  if (i.cpu_window < 0)
    return file_->read_direct(file_records_[r], window_of(gpu_windows_, i.gpu_window), "nvme read direct", i.amount);
  file_->read(file_records_[r], window_of(cpu_windows_, i.cpu_window), "nvme read", i.amount);
}

void OptimizerStore::enqueue_write(const Instruction& i) {
  const auto r = static_cast<std::size_t>(i.record);
  if (i.cpu_window < 0)
    return file_->write_direct(file_records_[r], window_of(gpu_windows_, i.gpu_window), "nvme write direct", i.amount);
  file_->write(file_records_[r], window_of(cpu_windows_, i.cpu_window), "nvme write", i.amount);
}

// Neighbours whose elements all have states are updated as one, with the padding up to the alignment behind them.
std::vector<OptimizerStore::Run> OptimizerStore::runs_of(std::size_t r) const {
  const OptimizerRecord& record = records()[r];
  const UnitLayout& unit = layout_.units[static_cast<std::size_t>(record.unit)];
  std::vector<Run> runs;
  for (std::size_t i = 0; i < pieces_[r].size(); ++i) {
    const ParamPiece& piece = pieces_[r][i].of;
    const std::int64_t states_at = pieces_[r][i].states_at;
    const std::int64_t next = i + 1 < pieces_[r].size() ? pieces_[r][i + 1].of.offset : record.range.count;
    const int group = unit.params[piece.param].group;
    const StatefulChoices::Choice choice = choices_.of(record.unit, piece.param);
    if (pieces_[r][i].rank > 0) continue;  // rows_ has it
    const bool turns = pieces_[r][i].takes_turns;
    if (!choice.is_everything || turns) {
      runs.push_back({.first = piece.offset,
                      .count = piece.count,
                      .states_at = turns ? turns_.place_of(r, i) : states_at,
                      .group = group,
                      .set = choice.set,
                      .first_of_param = piece.first,
                      .gpu_words = choice.gpu_words,
                      .states_are_zero = turns ? choices_.is_fresh() : choice.states_are_zero,
                      .apart = turns});
      continue;
    }
    if (format() != kF32States) {  // blocks are a parameter's, and so is noise
      runs.push_back({.first = piece.offset,
                      .count = piece.count,
                      .states_at = states_at,
                      .group = group,
                      .first_of_param = piece.first,
                      .noise_stream = state_noise_stream(unit.params[piece.param].name)});
      continue;
    }
    const std::int64_t end =
        std::min(next, piece.offset + (piece.count + kParamAlignment - 1) / kParamAlignment * kParamAlignment);
    if (Run* last = runs.empty() ? nullptr : &runs.back();
        last != nullptr && !last->set && last->group == group && states_at - last->states_at == piece.offset - last->first)
      last->count = end - last->first;
    else
      runs.push_back({.first = piece.offset, .count = end - piece.offset, .states_at = states_at, .group = group});
  }
  return runs;
}

const std::byte* OptimizerStore::near_grads(const Instruction& i) const {
  const UpdateRoute route = route_of(plan_.schedule.shape, static_cast<std::size_t>(i.record));
  return route.grads_down || route.grads_up ? staging_of(i)->grads.data() : sums_of(i);
}

void OptimizerStore::enqueue_measure(const Instruction& i, const UpdateStep& step) {
  rows_.enqueue_measure(static_cast<std::size_t>(i.record), near_grads(i), grads_.dtype(), step, stream_of(i.resource),
                        i.amount);
}

std::vector<Slice> OptimizerStore::not_updated(std::size_t r, const std::vector<Run>& runs) const {
  std::vector<Slice> updated;
  updated.reserve(runs.size());
  for (const Run& run : runs) updated.push_back({run.first, run.count});
  for (const StatePiece& piece : pieces_[r])
    if (piece.rank > 0) updated.push_back({piece.of.offset, piece.of.count});
  std::sort(updated.begin(), updated.end(), [](const Slice& x, const Slice& y) { return x.first < y.first; });
  updated.push_back({records()[r].range.count, 0});
  std::vector<Slice> rest;
  std::int64_t end = 0;
  for (const Slice& part : updated) {
    if (end < part.first) rest.push_back({end, part.first - end});
    end = part.first + part.count;
  }
  return rest;
}

void OptimizerStore::enqueue_update(const Instruction& i, const UpdateStep& of_all) {
  const auto r = static_cast<std::size_t>(i.record);
  const OptimizerRecord& record = records()[r];
  UpdateStep step = of_all;
  step.number = units_.update_number(record.unit, of_all.number);
  const RecordState state = state_in(r, work_memory(i));
  const UpdateRoute route = route_of(plan_.schedule.shape, r);
  const Staging* const staged = staging_of(i);
  const std::byte* const grads = near_grads(i);
  const bool rounded = grads_.dtype() != DType::f32;
  std::byte* new_params = nullptr;  // where the update leaves its compute copy, if not in p
  if (i.params_window >= 0 && !route.params_down) {
    new_params = params_window(i.params_window).data();
  } else if (options_.compute != DType::f32) {
    new_params = route.params_up || route.params_down ? staged->params.data() : stored_params(r);
  } else if (route.has_gpu_window() && !route.params_down) {
    new_params = stored_params(r);
  }
  bf16* const p16 = options_.compute == DType::f32 ? nullptr : reinterpret_cast<bf16*>(new_params);
  const RecordState result = state_in(r, result_memory(i));
  const bool elsewhere = result_memory(i) != work_memory(i);
  const StreamRef stream = stream_of(i.resource);
  std::vector<std::pair<UpdateSlice, ParamGroup>> slices;
  std::vector<StatefulSet> sets;  // that the slices refer to
  const std::vector<Run> runs = runs_of(r);
  for (const Run& run : runs) {
    UpdateSlice slice{.p = state.p + run.first,
                      .g = rounded ? nullptr : reinterpret_cast<const float*>(grads) + run.first,
                      .g16 = rounded ? reinterpret_cast<const bf16*>(grads) + run.first : nullptr,
                      .p16 = p16 == nullptr ? nullptr : p16 + run.first,
                      .n = run.count,
                      .new_p = elsewhere ? result.p + run.first : nullptr,
                      .format = format(),
                      .stream = run.noise_stream,
                      .steps_before = of_all.number - step.number,
                      .first = run.first_of_param,
                      .states_are_zero = run.states_are_zero};
    for (std::size_t k = 0; k < state.count; ++k) {
      if (format() != kF32States) {
        slice.packed[k] = state.states[k] + format().bytes(run.states_at);
        if (elsewhere) slice.new_packed[k] = result.states[k] + format().bytes(run.states_at);
        continue;
      }
      if (run.apart) {
        slice.states[k] = apart(r)[k] + run.states_at;
        continue;  // what has such states does not speculate
      }
      slice.states[k] = state.values(k) + run.states_at;
      if (elsewhere) slice.new_states[k] = result.values(k) + run.states_at;
    }
    if (run.set) {
      slice = stateful_slice(*run.set, slice, run.first_of_param, stream.on_gpu() ? run.gpu_words : nullptr);
      sets.push_back(*run.set);
    }
    slices.emplace_back(slice, options_.groups[run.group]);
  }
  std::vector<std::pair<RowUpdates::Application, ParamGroup>> matrices;
  if (rows_.has(r))
    for (const RowUpdates::Stretch& s : rows_.stretches(r))
      matrices.emplace_back(rows_.application(r, s, grads, grads_.dtype(), state.p, p16), options_.groups[s.group]);
  // Windows and second copies have held others' elements: what no update writes must not be theirs.
  std::vector<std::span<std::byte>> zeros;
  for (const Slice& padding : not_updated(r, runs)) {
    const auto n = static_cast<std::size_t>(padding.count);
    if (p16 != nullptr) zeros.push_back(std::as_writable_bytes(std::span(p16 + padding.first, n)));
    if (elsewhere) zeros.push_back(std::as_writable_bytes(std::span(result.p + padding.first, n)));
  }
  // States of a choice that is over.
  if (units_.states_are_zero(of_all.number))
    for (std::size_t k = 0; k < state.count; ++k)
      zeros.emplace_back(state.states[k], static_cast<std::size_t>(format().bytes(record.states)));
  const bool measured = units_.measures(of_all.number) && units_.is_block(record.unit);
  const float* const before = measured && !elsewhere ? distances_.keep(r, state.p, stream) : state.p;
  const Optimizer& method = *options_.method;
  if (stream.on_gpu()) {
    const GpuOperation operation(stream, method.name());
    for (const std::span<std::byte> zero : zeros) operation.queue().zero(zero.data(), zero.size());
    const GpuDriver& driver = stream.device().gpu();
    for (const auto& [slice, group] : slices) method.enqueue_on_gpu(slice, step, group, driver, operation.queue());
    for (const auto& [rows, group] : matrices)
      method.rows()->enqueue_apply(rows.block, rows.s, rows.weights, rows.scale, step, group, driver, operation.queue());
  } else {
    const auto work = [slices = std::move(slices), sets = std::move(sets), matrices = std::move(matrices),
                       zeros = std::move(zeros), step, &method, &pool = stream.device().pool()] {
      for (const std::span<std::byte> zero : zeros) std::fill(zero.begin(), zero.end(), std::byte{0});
      for (const auto& [slice, group] : slices) update(method, slice, step, group, pool);
      for (const auto& [rows, group] : matrices)
        apply(*method.rows(), rows.block, rows.s, rows.weights, rows.scale, step, group, pool);
      return Status();
    };
    stream.enqueue(method.name(), work, i.amount);
  }
  if (measured) distances_.compare(r, before, result.p, stream);
  if (options_.compute == DType::f32 && new_params != nullptr)
    copy_async(result.p, new_params, static_cast<std::size_t>(record.range.count) * sizeof(float), stream);
}

void OptimizerStore::enqueue_params(const Instruction& i) {
  const auto r = static_cast<std::size_t>(i.record);
  const void* from =
      options_.compute == DType::f32 ? static_cast<const void*>(state_in(r, result_memory(i)).p) : staging_of(i)->params.data();
  std::byte* const to = i.params_window >= 0 ? params_window(i.params_window).data() : stored_params(r);
  copy_async(from, to, static_cast<std::size_t>(records()[r].range.count) * size_of(options_.compute), stream_of(i.resource),
             i.amount);
}

const std::byte* OptimizerStore::sums_of(const Instruction& i) const {
  if (i.grads_window >= 0) return grads_window(i.grads_window).data();
  const OptimizerRecord& record = records()[static_cast<std::size_t>(i.record)];
  return grads_.for_update(record.unit).at(record.range.first, grads_.dtype());
}

void OptimizerStore::enqueue_grads(const Instruction& i) {
  const OptimizerRecord& record = records()[static_cast<std::size_t>(i.record)];
  copy_async(sums_of(i), staging_of(i)->grads.data(), static_cast<std::size_t>(record.range.count) * size_of(grads_.dtype()),
             stream_of(i.resource), i.amount);
}

void OptimizerStore::execute(const Instruction& i, const UpdateStep& step) {
  const auto r = static_cast<std::size_t>(i.record);
  const auto enqueue = [&] {
    switch (i.action) {
      case Action::read_state: return enqueue_read(i);
      case Action::write_state: return enqueue_write(i);
      case Action::state_up: return copy_async(cpu_memory(i), work_memory(i), payload_bytes(r), streams_.cpu_to_gpu, i.amount);
      case Action::state_down: {
        std::byte* const to = guess_ && shadows_[r] ? shadows_[r].data() : cpu_memory(i);
        return copy_async(work_memory(i), to, payload_bytes(r), streams_.gpu_to_cpu, i.amount);
      }
      case Action::read_grads: return grads_.read_piece(r, grads_window(i.grads_window));
      case Action::grads_down:
      case Action::grads_up: return enqueue_grads(i);
      case Action::measure: return enqueue_measure(i, step);
      case Action::update: return enqueue_update(i, step);
      case Action::params_up:
      case Action::params_down: return enqueue_params(i);
      case Action::write_params: return params_.write_piece(r, params_window(i.params_window));
    }
  };
  ordered(stream_of(i.resource), i.reads, i.writes, enqueue);
}

Status OptimizerStore::choose_units(std::int64_t step) {
  if (units_.holds_in(step)) return {};
  STRATA_RETURN_IF_ERROR(know_distances());
  if (units_.move_to(step)) freeze(plan_, units_.frozen(), options_.compute_shape, options_.rates);
  return {};
}

Status OptimizerStore::know_distances() {
  finish_update();
  if (!std::exchange(distances_are_due_, false)) return {};
  STRATA_ASSIGN_OR_RETURN(const std::vector<double> distances,
                          distances_.take(options_.zero_stage == 0 ? nullptr : &options_.exchange));
  for (int u = 0; u < plan_.schedule.shape.units; ++u)
    if (units_.is_block(u) && !units_.is_frozen(u)) units_.set_distance(u, distances[static_cast<std::size_t>(u)]);
  return {};
}

void OptimizerStore::resume_units(std::int64_t step, const std::vector<char>& frozen,
                                  std::span<const std::int64_t> updates_done, const std::vector<double>& distances) {
  finish_update();
  distances_are_due_ = false;
  if (units_.resume(step, frozen, updates_done, distances))
    freeze(plan_, units_.frozen(), options_.compute_shape, options_.rates);
}

void OptimizerStore::begin_step(const std::optional<UpdateStep>& guess) {
  finish_update();
  kept_versions_ = file_->versions();
  guess_ = plan_.waiting ? guess : std::nullopt;
  if (guess_) choose(guess_->number);
  next_early_ = 0;
  completed_.assign(static_cast<std::size_t>(plan_.schedule.shape.units), 0);
  begun_ = true;
  advance_early();
}

void OptimizerStore::complete(int u) {
  STRATA_CHECK(begun_, "a unit is complete in a step that has begun");
  if (units_.is_frozen(u)) return;
  if (completed_[static_cast<std::size_t>(u)]++ != 0) return;
  slots_[static_cast<std::size_t>(plan_.schedule.slots.grads(u))] = {grads_.summed(u), {}};
  advance_early();
}

void OptimizerStore::complete_all(const std::optional<UpdateStep>& guess) {
  if (!begun_) begin_step(guess);
  for (int u = 0; u < plan_.schedule.shape.units; ++u) complete(u);
}

void OptimizerStore::advance_early() {
  const UpdateSchedule& schedule = this->schedule(guess_.has_value());
  for (const std::size_t end = early_instructions(schedule); next_early_ < end; ++next_early_) {
    const Instruction& instruction = schedule.instructions[next_early_];
    if (const int unit = needs_gradients_of(schedule, instruction);
        unit >= 0 && completed_[static_cast<std::size_t>(unit)] == 0)
      return;
    execute(instruction, guess_.value_or(UpdateStep()));
  }
}

Result<bool> OptimizerStore::begin_update(const UpdateStep& step, const Event& after) {
  complete_all();
  begun_ = false;
  slots_[static_cast<std::size_t>(plan_.schedule.slots.norm())] = {after, {}};
  const bool guessed = guess_.has_value(), kept = guessed && *guess_ == step;
  if (guessed && !kept) forget();
  choose(step.number);
  const UpdateSchedule& schedule = this->schedule(kept);
  update_ = {.schedule = &schedule,
             .through = instructions_through_units(schedule),
             .step = step,
             .next = guessed && !kept ? 0 : early_instructions(schedule)};
  if (!rows_.any()) return kept;
  const GradientLook look = [this](int u, const auto& each) { return grads_.look_at(u, each); };
  STRATA_RETURN_IF_ERROR(rows_.refresh(step, look, options_.exchange));
  if (!rows_.measures()) return kept;
  for (const std::size_t end = measuring_instructions(schedule); update_->next < end; ++update_->next)
    execute(schedule.instructions[update_->next], step);
  STRATA_RETURN_IF_ERROR(rows_.exchange(options_.exchange));
  return kept;
}

void OptimizerStore::advance(int u) {
  if (!update_) return;
  for (; update_->next < update_->through[static_cast<std::size_t>(u)]; ++update_->next)
    execute(update_->schedule->instructions[update_->next], update_->step);
  for (; update_->published <= u; ++update_->published)
    if (!units_.is_frozen(update_->published)) publish(update_->published);
}

void OptimizerStore::finish_update() {
  if (!update_) return;
  advance(plan_.schedule.shape.units - 1);
  for (; update_->next < update_->schedule->instructions.size(); ++update_->next)
    execute(update_->schedule->instructions[update_->next], update_->step);
  distances_are_due_ = units_.measures(update_->step.number);
  update_.reset();
  choices_.were_updated();
  if (guess_) commit();
  hold_gradients();
}

void OptimizerStore::commit() {
  for (std::size_t r = 0; r < records().size(); ++r)
    if (shadows_[r] && !is_frozen(plan_.schedule.shape, r)) std::swap(homes_[r], shadows_[r]);
  guess_.reset();
}

// What was written to a file is the slot that the next write takes.
void OptimizerStore::forget() {
  file_->restore(kept_versions_);
  distances_.forget();
  guess_.reset();
}

Status OptimizerStore::drop_step() {
  begun_ = false;
  hold_gradients();
  if (!guess_) return {};
  forget();
  for (std::size_t r = 0; r < records().size(); ++r) {
    if (!speculates(plan_.schedule.shape, r) || is_frozen(plan_.schedule.shape, r)) continue;
    const HostView view = host_view(r);
    load(r, view);
    refresh(r, view);
  }
  return synchronize();
}

void OptimizerStore::hold_gradients() {
  for (int u = 0; u < plan_.schedule.shape.units; ++u)
    grads_.hold(u, slots_[static_cast<std::size_t>(plan_.schedule.slots.grads(u))].read);
}

void OptimizerStore::publish(int u) {
  std::vector<Event> updated;
  for (std::size_t r = 0; r < records().size(); ++r)
    if (records()[r].unit == u) updated.push_back(this->updated(r));
  params_.publish(u, std::move(updated));
}

void OptimizerStore::publish_all() {
  for (int u = 0; u < plan_.schedule.shape.units; ++u) publish(u);
}

OptimizerStore::HostView OptimizerStore::host_view(std::size_t r) {
  const Slots& slots = plan_.schedule.slots;
  HostView view;
  if (placement(r).home == Tier::nvme) {
    if (direct_image_) {
      view.slot = slots.count() + 2;
      view.window = {direct_image_.data(), direct_image_.size()};
    } else {
      const int window = static_cast<int>(static_cast<std::size_t>(file_records_[r]) % cpu_windows_.size());
      view.slot = slots.cpu_window(window);
      view.window = window_of(cpu_windows_, window);
    }
    view.state = state_in(r, view.window.data());
  } else if (placement(r).home == Tier::gpu && separate_) {
    std::byte* next = image_.data();
    view.slot = slots.count();
    view.state = {.p = reinterpret_cast<float*>(next), .format = format(), .count = states()};
    if (shares(r) && units_.is_stateless(records()[r].unit)) view.state.count = 0;
    next += kF32States.bytes(records()[r].range.count);
    for (std::size_t k = 0; k < states(); ++k, next += format().bytes(records()[r].states)) view.state.states[k] = next;
  } else {
    view.slot = slots.home(static_cast<int>(r));
    view.state = state_in(r, homes_[r].data());
  }
  if (has_apart(r)) {
    view.apart = apart_on_gpu(r) ? slots.count() + 3 : slots.rows(static_cast<int>(r));
    view.state.apart = apart_on_gpu(r) ? apart_image(r) : apart(r);
    view.state.apart_count = apart_count(r);
  }
  return view;
}

std::vector<int> OptimizerStore::slots_of(const HostView& view) {
  return view.apart < 0 ? std::vector<int>{view.slot} : std::vector<int>{view.slot, view.apart};
}

void OptimizerStore::copy_state(std::size_t r, RecordState from, RecordState to, StreamRef stream) const {
  const auto bytes = [&](const StateFormat& format, std::int64_t n) { return static_cast<std::size_t>(format.bytes(n)); };
  copy_async(from.p, to.p, bytes(kF32States, records()[r].range.count), stream);
  for (std::size_t k = 0; k < from.count && records()[r].states > 0; ++k)
    copy_async(from.states[k], to.states[k], bytes(format(), records()[r].states), stream);
}

void OptimizerStore::copy_apart(std::size_t r, const Arrays& from, const Arrays& to, StreamRef stream) const {
  for (std::size_t k = 0; k < states() && apart_count(r) > 0; ++k)
    copy_async(from[k], to[k], static_cast<std::size_t>(apart_count(r)) * sizeof(float), stream);
}

void OptimizerStore::load(std::size_t r, const HostView& view) {
  if (has_apart(r) && apart_on_gpu(r)) {
    const std::array<int, 1> of_gpu = {plan_.schedule.slots.rows(static_cast<int>(r))}, image = {view.apart};
    ordered(streams_.gpu_to_cpu, of_gpu, image, [&] { copy_apart(r, apart(r), apart_image(r), streams_.gpu_to_cpu); });
  }
  const std::array<int, 1> home = {plan_.schedule.slots.home(static_cast<int>(r))}, here = {view.slot};
  if (home == here) return;
  if (placement(r).home == Tier::nvme) {
    return ordered(streams_.nvme_read, home, here,
                   [&] { file_->read(file_records_[r], view.window, "nvme read", state_bytes(plan_.schedule.shape, r)); });
  }
  ordered(streams_.gpu_to_cpu, home, here,
          [&] { copy_state(r, state_in(r, homes_[r].data()), view.state, streams_.gpu_to_cpu); });
}

void OptimizerStore::store(std::size_t r, const HostView& view) {
  if (has_apart(r) && apart_on_gpu(r)) {
    const std::array<int, 1> of_gpu = {plan_.schedule.slots.rows(static_cast<int>(r))}, image = {view.apart};
    ordered(streams_.cpu_to_gpu, image, of_gpu, [&] { copy_apart(r, apart_image(r), apart(r), streams_.cpu_to_gpu); });
  }
  const std::array<int, 1> home = {plan_.schedule.slots.home(static_cast<int>(r))}, here = {view.slot};
  if (home == here) return;
  if (placement(r).home == Tier::nvme) {
    return ordered(streams_.nvme_write, here, home,
                   [&] { file_->write(file_records_[r], view.window, "nvme write", state_bytes(plan_.schedule.shape, r)); });
  }
  ordered(streams_.cpu_to_gpu, here, home,
          [&] { copy_state(r, view.state, state_in(r, homes_[r].data()), streams_.cpu_to_gpu); });
}

void OptimizerStore::enqueue_compute_copy(const float* p, std::byte* to, std::int64_t n) {
  streams_.host.enqueue("refresh compute copy", [p, to, n, dtype = options_.compute] {
    if (dtype == DType::f32) {
      std::memcpy(to, p, static_cast<std::size_t>(n) * sizeof(float));
    } else {
      kernels::cast_f32_to_bf16(p, reinterpret_cast<bf16*>(to), n);
    }
    return Status();
  });
}

void OptimizerStore::refresh(std::size_t r, const HostView& view) {
  const std::array<int, 1> here = {view.slot}, params = {plan_.schedule.slots.params(static_cast<int>(r))};
  const std::int64_t n = records()[r].range.count;
  float* p = view.state.p;
  if (params_on_nvme(r)) {
    const int w = static_cast<int>(r % params_windows_.size());
    const std::array<int, 1> window = {plan_.schedule.slots.params_window(w)};
    ordered(streams_.host, here, window, [&] { enqueue_compute_copy(p, params_window(w).data(), n); });
    return ordered(streams_.nvme_write, window, params, [&] { params_.write_piece(r, params_window(w)); });
  }
  if (reinterpret_cast<std::byte*>(p) == stored_params(r)) {  // the copy is p itself: whoever filled it is its writer
    slots_[static_cast<std::size_t>(params[0])] = {slots_[static_cast<std::size_t>(here[0])].written, {}};
    return;
  }
  if (reaches_params(r)) {
    return ordered(streams_.host, here, params, [&] { enqueue_compute_copy(p, stored_params(r), n); });
  }
  if (options_.compute == DType::f32) {
    return ordered(streams_.cpu_to_gpu, here, params,
                   [&] { copy_async(p, stored_params(r), static_cast<std::size_t>(n) * sizeof(float), streams_.cpu_to_gpu); });
  }
  auto* p16 = reinterpret_cast<bf16*>(rounded_ ? rounded_.data() : staging_.front().params.data());
  const std::array<int, 1> between = {rounded_ ? plan_.schedule.slots.count() + 1 : plan_.schedule.slots.staging(0)};
  ordered(streams_.host, here, between, [&] { enqueue_compute_copy(p, reinterpret_cast<std::byte*>(p16), n); });
  ordered(streams_.cpu_to_gpu, between, params,
          [&] { copy_async(p16, stored_params(r), static_cast<std::size_t>(n) * sizeof(bf16), streams_.cpu_to_gpu); });
}

Status OptimizerStore::synchronize() {
  for (const StreamRef stream : {streams_.host, streams_.nvme_read, streams_.gpu_to_cpu, streams_.cpu_update,
                                 streams_.gpu_update, streams_.cpu_to_gpu, streams_.nvme_write})
    STRATA_RETURN_IF_ERROR(stream.synchronize());
  return {};
}

Status OptimizerStore::fill(const std::function<Status(const OptimizerRecord&, RecordState)>& fill) {
  finish_update();
  const std::array<int, 0> none{};
  for (std::size_t r = 0; r < records().size(); ++r) {
    const HostView view = host_view(r);
    ordered(streams_.host, none, slots_of(view), [&] {
      streams_.host.enqueue("fill record", [&fill, &record = records()[r], state = view.state] { return fill(record, state); });
    });
    refresh(r, view);
    store(r, view);
  }
  publish_all();
  return synchronize();
}

Status OptimizerStore::visit(const std::function<Status(const OptimizerRecord&, RecordState)>& visit) {
  finish_update();
  const std::array<int, 0> none{};
  for (std::size_t r = 0; r < records().size(); ++r) {
    const HostView view = host_view(r);
    load(r, view);
    ordered(streams_.host, slots_of(view), none, [&] {
      streams_.host.enqueue("visit record",
                            [&visit, &record = records()[r], state = view.state] { return visit(record, state); });
    });
  }
  return streams_.host.synchronize();
}

std::int64_t OptimizerStore::state_count(int unit, std::size_t param) const {
  if (units_.is_stateless(unit)) return 0;
  return strata::state_count(layout_.units[static_cast<std::size_t>(unit)].params[param], *options_.method, options_.groups,
                             choices_.current());
}

std::vector<HeldPiece> OptimizerStore::held(const OptimizerRecord& record, Slice within) const {
  const UnitLayout& unit = layout_.units[static_cast<std::size_t>(record.unit)];
  const bool stateless = units_.is_stateless(record.unit);
  std::vector<HeldPiece> all;
  const auto r = static_cast<std::size_t>(&record - records().data());
  for (std::size_t i = 0; i < pieces_[r].size(); ++i) {
    const StatePiece& of = pieces_[r][i];
    const ParamPiece& piece = of.of;
    const std::int64_t param_at = unit.params[piece.param].offset;
    const std::int64_t first = std::max(piece.first, within.first - param_at);
    const std::int64_t end = std::min(piece.first + piece.count, within.end() - param_at);
    if (first >= end) continue;
    const StatefulChoices::Choice choice = choices_.of(record.unit, piece.param);
    const auto before = [&](std::int64_t element) {
      return of.rank > 0 ? element / unit.params[piece.param].columns * of.rank : states_before(choice.set.map(), element);
    };
    const std::int64_t states_at = of.takes_turns ? turns_.place_of(r, i) : of.states_at;
    all.push_back({.param = piece.param,
                   .first = first,
                   .offset = piece.offset + first - piece.first,
                   .count = end - first,
                   .first_state = before(first),
                   .state_offset = stateless ? 0 : states_at + before(first) - before(piece.first),
                   .state_count = stateless ? 0 : before(end) - before(first),
                   .states_are_zero = of.takes_turns ? choices_.is_fresh() : of.rank == 0 && choice.states_are_zero,
                   .apart = of.rank > 0 || of.takes_turns});
  }
  return all;
}

}  // namespace strata
