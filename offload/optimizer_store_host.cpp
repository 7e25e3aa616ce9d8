// What an OptimizerStore shows to the host, record by record: checkpoints fill and visit it.
#include <algorithm>
#include <array>
#include <cstring>

#include "offload/optimizer_store.h"
#include "runtime/kernels/elementwise.h"

namespace strata {

void zero(const OptimizerRecord& record, const RecordState& state) {
  std::fill_n(state.p, record.range.count, 0.0f);
  for (std::size_t k = 0; k < state.count; ++k) {
    std::fill_n(state.states[k], state.format.bytes(record.states), std::byte{0});
    if (state.apart_count > 0) std::fill_n(state.apart[k], state.apart_count, 0.0f);
  }
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
