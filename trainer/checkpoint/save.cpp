#include "trainer/checkpoint/save.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/safetensors.h"
#include "model/text_file.h"
#include "trainer/agree.h"
#include "trainer/checkpoint/atomic_dir.h"

namespace strata {
namespace {

class RankFile {
 public:
  RankFile(Engine& engine, std::string folder, std::string name) : engine_(engine), folder_(std::move(folder)) {
    file_.name = std::move(name);
    for (const std::string& state : engine.options().optimizer.method->states()) names_.push_back(state);
  }

  Status write() {
    STRATA_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::create(folder_ + "/" + file_.name, declare(), {}));
    std::int64_t sequence = 0;
    // A file has the tensors of wide types before the others.
    for (const bool packed : {false, true}) {
      if (packed && format_ == kF32States) continue;
      sequence = 0;
      STRATA_RETURN_IF_ERROR(engine_.optimizer().visit(
          [&](const OptimizerRecord& record, RecordState state) { return append(writer, record, state, packed, &sequence); }));
    }
    for (const Projection& projection : projections(&sequence))
      STRATA_RETURN_IF_ERROR(append(writer, projection.name, std::as_bytes(projection.values)));
    file_.bytes = writer.file_bytes();
    return writer.finish(true);
  }
  const CheckpointFile& file() const { return file_; }

 private:
  // A part of one record's array of one state, which belongs to one parameter and is this rank's to write.
  struct Stretch {
    SliceName name;
    std::size_t array = 0;  // p, then the optimizer's states
    std::int64_t at = 0, count = 0;
    bool is_zero = false;  // whatever is there
    bool apart = false;    // HeldPiece
  };
  std::vector<Stretch> stretches(const OptimizerRecord& record, std::int64_t* sequence) const {
    const UnitLayout& unit = engine_.layout().units[static_cast<std::size_t>(record.unit)];
    std::vector<Stretch> all;
    // A stage 0 rank updates everything, but writes what it would own.
    for (const HeldPiece& piece :
         engine_.optimizer().held(record, unit.slices[static_cast<std::size_t>(engine_.control().rank().v)])) {
      const std::string& param = unit.params[piece.param].name;
      all.push_back({{(*sequence)++, names_[0], piece.first, param}, 0, piece.offset, piece.count});
      for (std::size_t k = 1; k < names_.size() && piece.state_count > 0; ++k)
        all.push_back({{(*sequence)++, names_[k], piece.first_state, param},
                       k,
                       piece.state_offset,
                       piece.state_count,
                       piece.states_are_zero,
                       piece.apart});
    }
    return all;
  }

  bool is_packed(const Stretch& stretch) const { return stretch.array > 0 && format_ != kF32States; }

  std::vector<SafetensorsDecl> declare() const {
    std::vector<SafetensorsDecl> tensors;
    std::int64_t sequence = 0;
    for (const OptimizerRecord& record : engine_.optimizer().records())
      for (const Stretch& stretch : stretches(record, &sequence))
        tensors.push_back(
            is_packed(stretch)
                ? SafetensorsDecl{format_slice_name(stretch.name),
                                  stored_type(format_),
                                  {format_.bytes(stretch.count) / static_cast<std::int64_t>(size_of(stored_type(format_)))}}
                : SafetensorsDecl{format_slice_name(stretch.name), SafetensorsType::f32, {stretch.count}});
    for (const Projection& projection : projections(&sequence))
      tensors.push_back({format_slice_name(projection.name), SafetensorsType::f32, {std::ssize(projection.values)}});
    return tensors;
  }

  // Of matrices whose first element this rank would own.
  struct Projection {
    SliceName name;
    std::span<const float> values;
  };
  std::vector<Projection> projections(std::int64_t* sequence) const {
    std::vector<Projection> all;
    OptimizerStore& store = engine_.optimizer();
    if (!store.holds_projections()) return all;
    int u = 0;
    for (const UnitLayout& unit : engine_.layout().units) {
      const Slice mine = unit.slices[static_cast<std::size_t>(engine_.control().rank().v)];
      for (std::size_t p = 0; p < unit.params.size(); ++p)
        for (const RowUpdates::HeldProjection& held : store.projections(u, p)) {
          const std::int64_t place = unit.params[p].offset + held.first_element;
          if (place < mine.first || place >= mine.end()) continue;
          all.push_back({{(*sequence)++, kProjectionState, held.first, unit.params[p].name}, held.values});
        }
      ++u;
    }
    return all;
  }

  // The stretches that are stored in the states' own format, or the others.
  Status append(SafetensorsWriter& writer, const OptimizerRecord& record, RecordState state, bool packed,
                std::int64_t* sequence) {
    for (const Stretch& stretch : stretches(record, sequence)) {
      if (is_packed(stretch) != packed) continue;
      if (packed) {
        const std::byte* const blocks = state.states[stretch.array - 1] + format_.bytes(stretch.at);
        const auto bytes = static_cast<std::size_t>(format_.bytes(stretch.count));
        STRATA_RETURN_IF_ERROR(append(writer, stretch.name, std::span(blocks, bytes)));
        continue;
      }
      const auto n = static_cast<std::size_t>(stretch.count);
      const std::vector<float> zeros(stretch.is_zero ? n : 0);
      const float* const stored = (stretch.array == 0 ? state.p
                                   : stretch.apart    ? state.apart[stretch.array - 1]
                                                      : state.values(stretch.array - 1)) +
                                  stretch.at;
      const auto bytes = std::as_bytes(std::span(stretch.is_zero ? zeros.data() : stored, n));
      STRATA_RETURN_IF_ERROR(append(writer, stretch.name, bytes));
    }
    return {};
  }

  Status append(SafetensorsWriter& writer, const SliceName& name, std::span<const std::byte> bytes) {
    file_.checksums.push_back(checksum_hex(bytes.data(), bytes.size()));
    return writer.append(format_slice_name(name), bytes);
  }

  Engine& engine_;
  const StateFormat format_ = engine_.options().optimizer.method->state_format();
  std::string folder_;
  CheckpointFile file_;
  std::vector<std::string> names_ = {kParameterState};  // of what is kept of each element
};

// Of parameters of which not every element has states, and of matrices that keep something themselves.
void add_state_counts(Engine& engine, std::vector<CheckpointParam>& params) {
  std::size_t i = 0;
  int u = 0;
  for (const UnitLayout& unit : engine.layout().units) {
    for (std::size_t p = 0; p < unit.params.size(); ++p, ++i) {
      const std::int64_t states = engine.optimizer().state_count(u, p);
      if (states != unit.params[p].numel) params[i].states = states;
      params[i].memory = engine.optimizer().row_memory(u, p);
      if (!engine.optimizer().holds_projections()) continue;
      for (const RowUpdates::HeldProjection& held : engine.optimizer().projections(u, p)) params[i].projections += held.count;
    }
    ++u;
  }
}

std::string rank_file_name(int rank) {
  char name[40];
  std::snprintf(name, sizeof name, "rank_%05d.safetensors", rank);
  return name;
}

Status commit(const std::string& target, Manifest manifest, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    const auto j = nlohmann::json::parse(part);
    manifest.files.push_back({j.at("name").get<std::string>(), j.at("bytes").get<std::uint64_t>(),
                              j.at("checksums").get<std::vector<std::string>>()});
  }
  STRATA_RETURN_IF_ERROR(write_text_file(temporary_path(target) + "/manifest.json", manifest_to_json(manifest)));
  return commit_atomic_dir(target);
}

}  // namespace

std::vector<std::string> trained_units(Engine& engine) {
  std::vector<std::string> names;
  const std::vector<UnitLayout>& units = engine.layout().units;
  for (std::size_t u = 0; u < units.size(); ++u)
    if (!engine.optimizer().units().is_frozen(static_cast<int>(u))) names.push_back(units[u].name);
  return names;
}

std::vector<CheckpointParam> checkpoint_params(const Model& model) {
  std::vector<CheckpointParam> params;
  for (int u = 0; u < model.unit_count(); ++u)
    for (const ParamSpec& p : model.unit(u).params())
      params.push_back({.name = p.name, .shape = p.shape, .transposed = p.transposed});
  return params;
}

Result<std::string> save_checkpoint(Engine& engine, const Model& model, const Manifest& info, const SaveOptions& options) {
  Communicator& comm = engine.control();
  const bool leader = comm.rank().v == 0;
  const std::string target = options.parent + "/step_" + std::to_string(info.step);
  const std::string not_written = "checkpoint of step " + std::to_string(info.step) + " was not written";
  STRATA_RETURN_IF_ERROR(engine.optimizer().know_distances());
  Status status = leader ? begin_atomic_dir(target) : Status();
  if (status = agree(comm, status, "begin checkpoint"); !status.ok()) return status.with_context(not_written);
  RankFile file(engine, temporary_path(target), rank_file_name(comm.rank().v));
  status = file.write();
  const nlohmann::json part = {{"name", file.file().name}, {"bytes", file.file().bytes}, {"checksums", file.file().checksums}};
  std::vector<std::string> parts;
  status = agree(comm, status, "write checkpoint", part.dump(), &parts);
  if (status.ok()) {
    if (leader) {
      Manifest manifest = info;
      manifest.world_size = comm.size().v;
      const Optimizer& method = *engine.options().optimizer.method;
      manifest.optimizer = method.name();
      manifest.states = method.states();
      manifest.format = method.state_format();
      manifest.choice_rule = method.choice_rule();
      manifest.choice = engine.optimizer().held_choice();
      if (const FreezePolicy* const freeze = engine.options().optimizer.freeze.get(); freeze != nullptr) {
        manifest.freeze_rule = freeze->rule();
        manifest.trained = trained_units(engine);
        const ActiveUnits& units = engine.optimizer().units();
        manifest.unit_distances = units.distances();
        if (units.measures()) manifest.unit_updates = units.updates_done(manifest.step);
      }
      manifest.params = checkpoint_params(model);
      add_state_counts(engine, manifest.params);
      status = commit(target, std::move(manifest), parts);
    }
    status = agree(comm, status, "commit checkpoint");
  }
  if (!status.ok()) {
    if (leader) (void)discard_atomic_dir(target);  // the first error is the one to report
    return status.with_context(not_written);
  }
  if (!leader) return std::string();
  status = prune_step_dirs(options.parent, options.keep_last);
  return status.ok() ? std::string() : "old checkpoints could not be removed: " + status.message();
}

}  // namespace strata
