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

Slice intersection(Slice a, Slice b) {
  const std::int64_t first = std::max(a.first, b.first);
  return {first, std::max<std::int64_t>(0, std::min(a.end(), b.end()) - first)};
}

class RankFile {
 public:
  RankFile(Engine& engine, std::string folder, std::string name) : engine_(engine), folder_(std::move(folder)) {
    file_.name = std::move(name);
    for (const std::string& state : engine.options().optimizer.method->states()) names_.push_back(state);
  }

  Status write() {
    STRATA_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::create(folder_ + "/" + file_.name, declare(), {}));
    std::int64_t sequence = 0;
    STRATA_RETURN_IF_ERROR(engine_.optimizer().visit(
        [&](const OptimizerRecord& record, RecordState state) { return append(writer, record, state, &sequence); }));
    file_.bytes = writer.file_bytes();
    return writer.finish(true);
  }
  const CheckpointFile& file() const { return file_; }

 private:
  // A part of one record that belongs to one parameter and is this rank's to write.
  struct Piece {
    std::string param;
    std::int64_t first = 0;  // in the parameter
    std::int64_t in_record = 0;
    std::int64_t count = 0;
  };
  std::vector<Piece> pieces(const OptimizerRecord& record) const {
    const UnitLayout& unit = engine_.layout().units[static_cast<std::size_t>(record.unit)];
    // A stage 0 rank updates everything, but writes what it would own.
    const Slice mine = intersection(record.range, unit.slices[static_cast<std::size_t>(engine_.control().rank().v)]);
    std::vector<Piece> all;
    for (const ParamPiece& p : params_in(unit, mine))
      all.push_back({unit.params[p.param].name, p.first, mine.first - record.range.first + p.offset, p.count});
    return all;
  }

  std::vector<SafetensorsDecl> declare() const {
    std::vector<SafetensorsDecl> tensors;
    std::int64_t sequence = 0;
    for (const OptimizerRecord& record : engine_.optimizer().records())
      for (const Piece& piece : pieces(record))
        for (const std::string& state : names_)
          tensors.push_back(
              {format_slice_name({sequence++, state, piece.first, piece.param}), SafetensorsType::f32, {piece.count}});
    return tensors;
  }

  Status append(SafetensorsWriter& writer, const OptimizerRecord& record, RecordState state, std::int64_t* sequence) {
    for (const Piece& piece : pieces(record))
      for (std::size_t k = 0; k < names_.size(); ++k) {
        const float* values = (k == 0 ? state.p : state.states[k - 1]) + piece.in_record;
        const auto bytes = std::as_bytes(std::span(values, static_cast<std::size_t>(piece.count)));
        file_.checksums.push_back(checksum_hex(bytes.data(), bytes.size()));
        STRATA_RETURN_IF_ERROR(writer.append(format_slice_name({(*sequence)++, names_[k], piece.first, piece.param}), bytes));
      }
    return {};
  }

  Engine& engine_;
  std::string folder_;
  CheckpointFile file_;
  std::vector<std::string> names_ = {kParameterState};  // of what is kept of each element
};

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

std::vector<CheckpointParam> checkpoint_params(const Model& model) {
  std::vector<CheckpointParam> params;
  for (int u = 0; u < model.unit_count(); ++u)
    for (const ParamSpec& p : model.unit(u).params()) params.push_back({p.name, p.shape});
  return params;
}

Result<std::string> save_checkpoint(Engine& engine, const Model& model, const Manifest& info, const SaveOptions& options) {
  Communicator& comm = engine.control();
  const bool leader = comm.rank().v == 0;
  const std::string target = options.parent + "/step_" + std::to_string(info.step);
  const std::string not_written = "checkpoint of step " + std::to_string(info.step) + " was not written";
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
      manifest.optimizer = engine.options().optimizer.method->name();
      manifest.states = engine.options().optimizer.method->states();
      manifest.params = checkpoint_params(model);
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
