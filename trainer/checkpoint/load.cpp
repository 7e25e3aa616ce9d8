#include "trainer/checkpoint/load.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/config.h"
#include "trainer/agree.h"
#include "trainer/checkpoint/atomic_dir.h"
#include "trainer/checkpoint/save.h"
#include "trainer/checkpoint/sha256.h"

namespace strata {

Result<CheckpointReader> CheckpointReader::open(const std::string& checkpoint_dir) {
  CheckpointReader reader;
  reader.path_ = checkpoint_dir;
  STRATA_ASSIGN_OR_RETURN(reader.manifest_, read_manifest(checkpoint_dir));
  for (std::size_t i = 0; i < reader.manifest_.files.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(checkpoint_dir + "/" + reader.manifest_.files[i].name));
    reader.files_.push_back(std::move(file));
    STRATA_RETURN_IF_ERROR(reader.index_file(i));
  }
  STRATA_RETURN_IF_ERROR(reader.check_coverage());
  return reader;
}

Status CheckpointReader::index_file(std::size_t i) {
  const SafetensorsFile& file = files_[i];
  if (file.tensors().size() != manifest_.files[i].checksums.size())
    return {Code::corrupt, file.path() + ": holds " + std::to_string(file.tensors().size()) + " tensors, the manifest lists " +
                               std::to_string(manifest_.files[i].checksums.size())};
  for (std::size_t t = 0; t < file.tensors().size(); ++t) {
    const SafetensorsInfo& info = file.tensors()[t];
    Result<SliceName> name = parse_slice_name(info.name);
    if (!name.ok()) return name.status().with_context(file.path());
    const SafetensorsType type = stored_type(format_of(name->state));
    if (info.type != type) return {Code::corrupt, file.path() + ": " + info.name + " is not " + to_string(type)};
    if (const std::vector<std::string> known = states(); std::find(known.begin(), known.end(), name->state) == known.end())
      return {Code::corrupt, file.path() + ": " + info.name + " is of a state that the manifest does not list"};
    Stretches& stretches = slices_[name->param][name->state];
    std::int64_t count = info.numel();
    if (type == SafetensorsType::u8) {  // whole blocks, of which the parameter's last one may have fewer elements
      const StateFormat& format = manifest_.format;
      count = count / format.block_bytes * format.block;
      for (const CheckpointParam& param : manifest_.params)
        if (param.name == name->param) count = std::min(count, param.count(name->state) - name->first);
    }
    if (!stretches.emplace(name->first, Stretch{count, i, t}).second)
      return {Code::corrupt, file.path() + ": " + info.name + " is there twice"};
  }
  return {};
}

Status CheckpointReader::check_coverage() const {
  for (const CheckpointParam& param : manifest_.params)
    for (const std::string& state : states()) {
      std::int64_t next = 0;
      if (const Stretches* stretches = find(param.name, state); stretches != nullptr)
        for (const auto& [first, stretch] : *stretches) {
          if (first != next) break;
          next += stretch.count;
        }
      const std::int64_t count = param.count(state);
      if (next != count)
        return {Code::corrupt, path_ + ": parameter " + param.name + ", state " + state + ": elements from " +
                                   std::to_string(next) + " of " + std::to_string(count) + " are missing or overlap"};
    }
  return {};
}

const CheckpointReader::Stretches* CheckpointReader::find(const std::string& param, const std::string& state) const {
  const auto it = slices_.find(param);
  if (it == slices_.end()) return nullptr;
  const auto stretches = it->second.find(state);
  return stretches == it->second.end() ? nullptr : &stretches->second;
}

std::vector<std::string> CheckpointReader::states() const {
  std::vector<std::string> states = {kParameterState};
  states.insert(states.end(), manifest_.states.begin(), manifest_.states.end());
  states.emplace_back(kProjectionState);
  return states;
}

Status CheckpointReader::verify_file(std::size_t i) const {
  const SafetensorsFile& file = files_[i];
  std::vector<std::byte> bytes;
  for (std::size_t t = 0; t < file.tensors().size(); ++t) {
    const SafetensorsInfo& info = file.tensors()[t];
    bytes.resize(info.bytes());
    STRATA_RETURN_IF_ERROR(file.read(info, 0, bytes));
    const std::string found = checksum_hex(bytes.data(), bytes.size());
    if (found != manifest_.files[i].checksums[t])
      return {Code::corrupt, file.path() + ": tensor " + info.name + ": checksum " + found + ", the manifest says " +
                                 manifest_.files[i].checksums[t] +
                                 "; the file was changed or the disk is failing: use an earlier checkpoint"};
  }
  return {};
}

template <class Read>
Status CheckpointReader::each_stretch(const Stretches& stretches, const std::string& param, std::int64_t first, std::int64_t n,
                                      const Read& read) const {
  std::int64_t done = 0;
  while (done < n) {
    const std::int64_t at = first + done;
    auto it = stretches.upper_bound(at);
    if (it == stretches.begin()) return {Code::corrupt, path_ + ": " + param + " does not hold element " + std::to_string(at)};
    --it;
    const std::int64_t skip = at - it->first;
    const std::int64_t count = std::min(it->second.count - skip, n - done);
    if (count <= 0) return {Code::corrupt, path_ + ": " + param + " does not hold element " + std::to_string(at)};
    const SafetensorsFile& file = files_[it->second.file];
    STRATA_RETURN_IF_ERROR(read(file, file.tensors()[it->second.tensor], skip, done, count));
    done += count;
  }
  return {};
}

Status CheckpointReader::read(const std::string& param, const std::string& state, std::int64_t first,
                              std::span<float> out) const {
  if (out.empty()) return {};
  if (state != kParameterState && manifest_.optimizer.empty()) {
    std::fill(out.begin(), out.end(), 0.0f);
    return {};
  }
  const Stretches* stretches = find(param, state);
  if (stretches == nullptr) return {Code::not_found, path_ + ": no state " + state + " of a parameter " + param};
  return each_stretch(*stretches, param, first, std::ssize(out),
                      [&](const SafetensorsFile& file, const SafetensorsInfo& tensor, std::int64_t skip, std::int64_t done,
                          std::int64_t count) {
                        return file.read_f32(tensor, skip,
                                             out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)));
                      });
}

Status CheckpointReader::read_stored(const std::string& param, const std::string& state, std::int64_t first, std::int64_t n,
                                     std::byte* out) const {
  const StateFormat& format = manifest_.format;
  if (manifest_.optimizer.empty()) {
    std::fill_n(out, format.bytes(n), std::byte{0});
    return {};
  }
  const Stretches* stretches = find(param, state);
  if (stretches == nullptr) return {Code::not_found, path_ + ": no state " + state + " of a parameter " + param};
  return each_stretch(*stretches, param, first, n,
                      [&](const SafetensorsFile& file, const SafetensorsInfo& tensor, std::int64_t skip, std::int64_t done,
                          std::int64_t count) {
                        return file.read(tensor, static_cast<std::uint64_t>(format.bytes(skip)),
                                         std::span(out + format.bytes(done), static_cast<std::size_t>(format.bytes(count))));
                      });
}

Status CheckpointReader::read_parameter(const ParamSpec& spec, std::int64_t first, std::span<float> out) const {
  const auto has = std::find_if(manifest_.params.begin(), manifest_.params.end(),
                                [&](const CheckpointParam& param) { return param.name == spec.name; });
  if (has == manifest_.params.end() || has->transposed == spec.transposed) return read(spec.name, kParameterState, first, out);
  const std::int64_t rows = spec.shape[0], columns = spec.shape[1];  // in the checkpoint columns and rows
  const std::int64_t end = first + static_cast<std::int64_t>(out.size());
  std::vector<float> run;
  for (std::int64_t at = first; at < end;) {
    const std::int64_t row = at / columns, column = at % columns;
    // Whole rows together; what begins or ends inside a row alone.
    const bool whole = column == 0 && end - at >= columns;
    run.resize(static_cast<std::size_t>(whole ? (end - at) / columns : 1));
    const std::int64_t last = whole ? columns : std::min(columns, column + end - at);
    for (std::int64_t c = column; c < last; ++c) {
      STRATA_RETURN_IF_ERROR(read(spec.name, kParameterState, c * rows + row, run));
      for (std::size_t r = 0; r < run.size(); ++r)
        out[static_cast<std::size_t>(at - first + c - column) + r * static_cast<std::size_t>(columns)] = run[r];
    }
    at += whole ? static_cast<std::int64_t>(run.size()) * columns : last - column;
  }
  return {};
}

Result<std::string> CheckpointReader::digest() const {
  constexpr std::int64_t kChunk = 1 << 20;
  Sha256 sha;
  const auto add_text = [&](const std::string& text) { sha.add(std::as_bytes(std::span(text.data(), text.size() + 1))); };
  add_text("step " + std::to_string(manifest_.step));
  std::vector<float> values;
  std::vector<std::byte> stored;
  for (const CheckpointParam& param : manifest_.params) {
    add_text(param.name + " " + param.shape.str());
    for (const std::string& state : states()) {
      const std::int64_t count = param.count(state);
      for (std::int64_t first = 0; first < count; first += kChunk) {
        const std::int64_t n = std::min(kChunk, count - first);
        if (const StateFormat& format = format_of(state); format != kF32States) {
          stored.resize(static_cast<std::size_t>(format.bytes(n)));
          STRATA_RETURN_IF_ERROR(read_stored(param.name, state, first, n, stored.data()));
          sha.add(stored);
          continue;
        }
        values.resize(static_cast<std::size_t>(n));
        STRATA_RETURN_IF_ERROR(read(param.name, state, first, values));
        sha.add(std::as_bytes(std::span(values)));
      }
    }
  }
  return sha.hex();
}

Status same_parameters(const CheckpointReader& reader, const Model& model) {
  const std::vector<CheckpointParam> wanted = checkpoint_params(model);
  const std::vector<CheckpointParam>& present = reader.manifest().params;
  // What it is before it is stored.
  const auto described = [](const std::vector<CheckpointParam>& params, std::size_t i) -> std::string {
    if (i >= params.size()) return "nothing";
    const Shape& stored = params[i].shape;
    const bool swap = params[i].transposed && stored.rank() == 2;
    return params[i].name + " " + (swap ? Shape{stored[1], stored[0]} : stored).str();
  };
  for (std::size_t i = 0; i < std::max(wanted.size(), present.size()); ++i) {
    const std::string has = described(present, i), wants = described(wanted, i);
    if (has != wants)
      return {Code::invalid_config,
              reader.path() + " is a checkpoint of another model: it has " + has + " where the configured model has " + wants};
    if (present[i].transposed && present[i].shape.rank() != 2)
      return {Code::corrupt, reader.path() + "/manifest.json: " + has + " has no two dims, but is said to be transposed"};
  }
  return {};
}

namespace {

// After same_parameters(). What an optimizer keeps need not have an element for each, so only parameters are transposed.
Status same_orientation(const Manifest& manifest, const Model& model, const std::string& path) {
  if (manifest.optimizer.empty()) return {};
  const std::vector<CheckpointParam> wanted = checkpoint_params(model);
  const auto stored = [](const CheckpointParam& param) { return param.transposed ? "(in, out)" : "(out, in)"; };
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (manifest.params[i].transposed != wanted[i].transposed)
      return {
          Code::invalid_config,
          path + " holds " + wanted[i].name + " and its states as " + stored(manifest.params[i]) + ", this run's model as " +
              stored(wanted[i]) +
              ": train on with the model and optimizer.type that wrote it, or begin a new run from its weights (strata model "
              "export, then model.hf)"};
  return {};
}

Status same_optimizer(const Manifest& manifest, const Optimizer& method, const std::string& path) {
  if (manifest.optimizer.empty()) return {};
  if (manifest.optimizer == method.name() && manifest.states == method.states() && manifest.format == method.state_format()) {
    if (manifest.choice_rule == method.choice_rule()) return {};
    return {Code::invalid_config,
            path + " holds states that go with other settings of " + method.name() + " (" + manifest.choice_rule +
                "; this run: " + method.choice_rule() +
                "): set them back, or begin a new run from its weights (strata model export, then model.hf)"};
  }
  if (manifest.optimizer == method.name() && manifest.states == method.states())
    return {Code::invalid_config,
            path + " holds states in " + to_string(manifest.format) + ", this run's are in " +
                to_string(method.state_format()) +
                ": set optimizer.state_dtype back, or begin a new run from its weights (strata model export, then model.hf)"};
  const auto described = [](const std::string& name, const std::vector<std::string>& states) {
    std::string text = name + " (";
    for (const std::string& state : states) text += (text.back() == '(' ? "" : ", ") + state;
    return states.empty() ? name + " (which has none)" : text + ")";
  };
  return {Code::invalid_config,
          path + " holds the states of " + described(manifest.optimizer, manifest.states) + ", this run's optimizer is " +
              described(method.name(), method.states()) +
              ": set optimizer.type back, or begin a new run from its weights (strata model export, then model.hf)"};
}

Status same_freezing(const Manifest& manifest, const Engine& engine, const std::string& path) {
  if (manifest.optimizer.empty()) return {};
  const FreezePolicy* const freeze = engine.options().optimizer.freeze.get();
  const std::string rule = freeze == nullptr ? "" : freeze->rule();
  const auto described = [](const std::string& text) { return text.empty() ? "none" : text; };
  if (manifest.freeze_rule != rule)
    return {Code::invalid_config, path + " was written by a run that froze units by another rule (" +
                                      described(manifest.freeze_rule) + "; this run: " + described(rule) +
                                      "): set optimizer.freeze and run.seed back, or begin a new run from its weights (strata "
                                      "model export, then model.hf)"};
  return {};
}

// What a choice by distances was made of, which no rule tells.
Status resume_units(const Manifest& manifest, Engine& engine, const std::string& path) {
  const std::vector<UnitLayout>& units = engine.layout().units;
  const auto damaged = [&](const std::string& what) {
    return Status(Code::corrupt, path + "/manifest.json: " + what + ", without which " + manifest.freeze_rule +
                                     " cannot go on: use another checkpoint, or begin a new run from its weights (strata model "
                                     "export, then model.hf)");
  };
  if (manifest.unit_distances.size() != units.size() || manifest.unit_updates.size() != units.size())
    return damaged("unit_distances and unit_updates do not have the " + std::to_string(units.size()) + " units of the model");
  std::vector<char> frozen;
  for (std::size_t u = 0; u < units.size(); ++u) {
    frozen.push_back(std::count(manifest.trained.begin(), manifest.trained.end(), units[u].name) == 0);
    const double distance = manifest.unit_distances[u];
    if (!(distance >= 0.0) || manifest.unit_updates[u] < 0 || manifest.unit_updates[u] > manifest.step)
      return damaged("unit_distances or unit_updates of " + units[u].name + " cannot be");
  }
  engine.optimizer().resume_units(manifest.step, frozen, manifest.unit_updates, manifest.unit_distances);
  return {};
}

// After same_freezing().
Status choose_units(const Manifest& manifest, Engine& engine, const std::string& path) {
  OptimizerStore& store = engine.optimizer();
  const FreezePolicy* const freeze = engine.options().optimizer.freeze.get();
  if (store.units().measures() && !manifest.optimizer.empty()) {
    STRATA_RETURN_IF_ERROR(resume_units(manifest, engine, path));
  } else {
    STRATA_RETURN_IF_ERROR(store.choose_units(std::max<std::int64_t>(manifest.step, 1)));
  }
  if (freeze == nullptr || manifest.optimizer.empty()) return {};
  const int units = static_cast<int>(engine.layout().units.size());
  int blocks = 0;
  for (int u = 0; u < units; ++u) blocks += store.units().is_block(u) && !store.units().is_frozen(u) ? 1 : 0;
  if (manifest.trained != trained_units(engine) || blocks != freeze->blocks_at_once(units))
    return {Code::corrupt, path + "/manifest.json: the units that were trained are not those of " + manifest.freeze_rule +
                               " in step " + std::to_string(manifest.step)};
  return {};
}

// optimizer.groups may say of which parameters only a part has states.
Status same_state_counts(const Manifest& manifest, Engine& engine, const std::string& path) {
  if (manifest.optimizer.empty()) return {};
  std::size_t i = 0;
  int u = 0;
  for (const UnitLayout& unit : engine.layout().units) {
    for (std::size_t p = 0; p < unit.params.size(); ++p, ++i) {
      const std::int64_t has = manifest.params[i].state_count();
      const std::int64_t wants = engine.optimizer().state_count(u, p);
      if (has != wants)
        return {Code::invalid_config, path + " holds " + std::to_string(has) + " values of each state of " +
                                          unit.params[p].name + ", this run keeps " + std::to_string(wants) +
                                          ": set optimizer.groups back (projected)"};
      if (manifest.params[i].memory.size() != engine.optimizer().row_memory(u, p).size())
        return {Code::corrupt, path + " does not hold what the optimizer keeps of the matrix " + unit.params[p].name};
      std::int64_t projections = 0;
      for (const RowUpdates::HeldProjection& held : engine.optimizer().projections(u, p)) projections += held.count;
      if (manifest.params[i].projections != (manifest.step == 0 ? 0 : projections))
        return {Code::corrupt, path + " does not hold the projections of " + unit.params[p].name};
    }
    ++u;
  }
  return {};
}

void set_row_memory(const Manifest& manifest, Engine& engine) {
  if (manifest.optimizer.empty()) return;
  std::size_t i = 0;
  int u = 0;
  for (const UnitLayout& unit : engine.layout().units) {
    for (std::size_t p = 0; p < unit.params.size(); ++p, ++i)
      engine.optimizer().set_row_memory(u, p, manifest.params[i].memory);
    ++u;
  }
}

// Collective; after same_state_counts(). What the checkpoint does not have (no update was made, or it is an import) is made by
// the next update.
Status load_projections(const CheckpointReader& reader, Engine& engine) {
  OptimizerStore& store = engine.optimizer();
  Status status;
  bool any = false;
  std::size_t i = 0;
  int u = 0;
  for (const UnitLayout& unit : engine.layout().units) {
    for (std::size_t p = 0; p < unit.params.size(); ++p, ++i) {
      if (reader.manifest().params[i].projections == 0) continue;
      any = true;
      for (const RowUpdates::HeldProjection& held : store.projections(u, p))
        if (status.ok()) status = reader.read(unit.params[p].name, kProjectionState, held.first, held.values);
    }
    ++u;
  }
  STRATA_RETURN_IF_ERROR(agree(engine.control(), status, "reading projections"));
  return store.hold_projections(any ? reader.manifest().step : 0);
}

Status fill_record(const CheckpointReader& reader, const std::vector<std::string>& states, const std::vector<ParamSpec>& params,
                   const std::vector<HeldPiece>& pieces, RecordState state) {
  for (const HeldPiece& piece : pieces) {
    const std::string& name = params[piece.param].name;
    const auto place = [](float* values, std::int64_t n) { return std::span(values, static_cast<std::size_t>(n)); };
    STRATA_RETURN_IF_ERROR(reader.read_parameter(params[piece.param], piece.first, place(state.p + piece.offset, piece.count)));
    for (std::size_t k = 0; k < states.size() && piece.state_count > 0; ++k) {
      if (state.format != kF32States) {
        STRATA_RETURN_IF_ERROR(reader.read_stored(name, states[k], piece.first_state, piece.state_count,
                                                  state.states[k] + state.format.bytes(piece.state_offset)));
        continue;
      }
      float* const values = piece.apart ? state.apart[k] : state.values(k);
      STRATA_RETURN_IF_ERROR(
          reader.read(name, states[k], piece.first_state, place(values + piece.state_offset, piece.state_count)));
    }
  }
  return {};
}

}  // namespace

Status load_checkpoint(Engine& engine, const Model& model, const CheckpointReader& reader) {
  STRATA_RETURN_IF_ERROR(same_parameters(reader, model));
  const Optimizer& method = *engine.options().optimizer.method;
  STRATA_RETURN_IF_ERROR(same_optimizer(reader.manifest(), method, reader.path()));
  STRATA_RETURN_IF_ERROR(same_freezing(reader.manifest(), engine, reader.path()));
  STRATA_RETURN_IF_ERROR(same_orientation(reader.manifest(), model, reader.path()));
  // Those that the last step trained have the states that are stored.
  STRATA_RETURN_IF_ERROR(choose_units(reader.manifest(), engine, reader.path()));
  engine.optimizer().hold_choice(reader.manifest().choice, reader.manifest().step);
  STRATA_RETURN_IF_ERROR(same_state_counts(reader.manifest(), engine, reader.path()));
  Communicator& comm = engine.control();
  Status verified;
  for (std::size_t i = static_cast<std::size_t>(comm.rank().v); i < reader.file_count() && verified.ok();
       i += static_cast<std::size_t>(comm.size().v))
    verified = reader.verify_file(i);
  STRATA_RETURN_IF_ERROR(agree(comm, verified, "verification of a checkpoint"));
  OptimizerStore& store = engine.optimizer();
  set_row_memory(reader.manifest(), engine);
  STRATA_RETURN_IF_ERROR(load_projections(reader, engine));
  std::vector<std::vector<ParamSpec>> specs;
  for (int u = 0; u < model.unit_count(); ++u) specs.push_back(model.unit(u).params());
  return store.fill([&, states = method.states()](const OptimizerRecord& record, RecordState state) {
    zero(record, state);  // padding
    return fill_record(reader, states, specs[static_cast<std::size_t>(record.unit)], store.held(record, record.range), state);
  });
}

Status same_function(const std::string& checkpoint_json, const std::string& config_json, const std::string& checkpoint_dir) {
  if (checkpoint_json.empty() || config_json.empty()) return {};
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json has, parse_json(checkpoint_json, checkpoint_dir + "/manifest.json"));
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json wants, parse_json(config_json, "the configured model"));
  for (const auto& [key, value] : wants.items()) {
    if (key == "max_positions" || key == "init_std" || key == "long_rows") continue;
    const auto it = has.find(key);
    if (it == has.end() || *it != value)
      return {Code::invalid_config, checkpoint_dir + " is a checkpoint of another model: its " + key + " is " +
                                        (it == has.end() ? "missing" : it->dump()) + ", the configured one is " + value.dump()};
  }
  return {};
}

Result<std::string> find_checkpoint(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::exists(path + "/manifest.json", ignored)) return path;
  for (const std::string& parent : {path, path + "/checkpoints"}) {
    if (!fs::is_directory(parent, ignored)) continue;
    STRATA_ASSIGN_OR_RETURN(const std::vector<StepDir> steps, list_step_dirs(parent));
    if (!steps.empty()) return steps.back().path;
  }
  return Status(Code::not_found,
                "no checkpoint in " + path + " (looked for manifest.json, step_<N>/ and checkpoints/step_<N>/)");
}

}  // namespace strata
