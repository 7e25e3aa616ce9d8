#include "offload/optimizer_store.h"

#include <algorithm>
#include <utility>

#include "offload/array_stride.h"
#include "optim/state_noise.h"

namespace strata {

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

}  // namespace strata
