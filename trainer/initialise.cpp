#include "trainer/initialise.h"

#include <algorithm>
#include <span>
#include <vector>

#include "model/init.h"

namespace strata {

Status initialise_parameters(Engine& engine, const Model& model, std::uint64_t seed) {
  std::vector<std::vector<ParamSpec>> specs;
  for (int u = 0; u < model.unit_count(); ++u) specs.push_back(model.unit(u).params());
  return engine.optimizer().fill([&](const OptimizerRecord& record, RecordState state) {
    zero(record, state);
    const auto u = static_cast<std::size_t>(record.unit);
    for (const ParamPiece& piece : params_in(engine.layout().units[u], record.range))
      init_parameter(specs[u][piece.param], seed, piece.first,
                     std::span(state.p + piece.offset, static_cast<std::size_t>(piece.count)));
    return Status();
  });
}

}  // namespace strata
