#include "trainer/unit_forward.h"

namespace strata {
namespace {

TensorRef parameter(TensorSet& tensors, const ParamSpec& spec, DType dtype) {
  const bool constant = spec.init.kind == Init::Kind::constant;
  return tensors.filled(dtype, spec.shape, constant ? 0.0f : 2.0f * spec.init.stddev, spec.init.mean);
}

// The unit's own, then its shared ones.
std::vector<ConstTensorRef> parameters(TensorSet& tensors, const Model& model, const Unit& unit, DType dtype) {
  std::vector<ConstTensorRef> all;
  for (const ParamSpec& spec : unit.params()) all.emplace_back(parameter(tensors, spec, dtype));
  for (const SharedParam& shared : unit.shared())
    all.emplace_back(parameter(tensors, model.unit(shared.unit).params()[static_cast<std::size_t>(shared.param)], dtype));
  return all;
}

Batch make_batch(TensorSet& tensors, const Model& model, const EngineOptions& o) {
  const Shape rows{o.micro_batch * o.seq_length};
  return {tensors.indices(rows, model.vocab_size()), tensors.indices(rows, model.vocab_size()), o.micro_batch, o.seq_length};
}

const std::vector<TensorRef> kNoGrads;

}  // namespace

UnitForward::UnitForward(Workbench& bench, const Model& model, const EngineOptions& options)
    : bench_(bench), model_(model), options_(options), tensors_(bench), unit_(*model.body().back()) {
  const Input input = find_input();  // first: units may share what prepare() makes
  unit_.prepare(bench.stream(), bench.arena(Tier::gpu), options.seq_length);
  batch_ = make_batch(tensors_, model, options);
  params_ = parameters(tensors_, model, unit_, options.compute);
  if (!input.given) return;
  x_ = Tensor(bench.arena(Tier::gpu), Category::activations, input.dtype, input.shape, "input of a unit");
  tensors_.fill(x_, 2.0f);
}

UnitForward::~UnitForward() {
  (void)bench_.stream().record().drain();
  Workbench::rehearse(bench_.device(),
                      [this](Workbench& dry) { unit_.prepare(dry.stream(), dry.arena(Tier::gpu), options_.seq_length); });
}

UnitForward::Input UnitForward::find_input() const {
  Input input;
  Workbench::rehearse(bench_.device(), [&](Workbench& dry) {
    TensorSet tensors(dry);
    const Batch batch = make_batch(tensors, model_, options_);
    Tensor x;
    for (std::size_t u = 0; u + 1 < model_.body().size(); ++u) {
      BodyUnit& unit = *model_.body()[u];
      const std::vector<ConstTensorRef> params = parameters(tensors, model_, unit, options_.compute);
      x = unit.forward({dry.stream(), dry.arena(Tier::gpu), options_.compute, batch, params, kNoGrads}, x, nullptr);
      input = {.given = true, .dtype = x.dtype(), .shape = x.shape()};
    }
  });
  return input;
}

void UnitForward::enqueue() {
  Saved saved;
  (void)unit_.forward({bench_.stream(), bench_.arena(Tier::gpu), options_.compute, batch_, params_, kNoGrads}, x_,
                      options_.activations.recompute == true ? nullptr : &saved);
}

}  // namespace strata
