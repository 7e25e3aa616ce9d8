#include "trainer/inference.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "model/config.h"
#include "model/transformer.h"
#include "trainer/checkpoint/load.h"
#include "trainer/environment.h"

namespace strata {

InferenceModel::InferenceModel(std::unique_ptr<Model> model, int threads)
    : device_(Backend::host, threads),
      model_(std::move(model)),
      arena_(Tier::gpu, available_host_memory()),
      stream_(device_, "compute") {}

Result<std::unique_ptr<InferenceModel>> InferenceModel::load(const std::string& checkpoint, int threads) {
  STRATA_ASSIGN_OR_RETURN(const std::string found, find_checkpoint(checkpoint));
  STRATA_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::open(found));
  if (reader.manifest().model_json.empty())
    return Status(Code::unsupported, found + " holds a program's own model; only that program can run it");
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(reader.manifest().model_json, found + "/manifest.json"));
  STRATA_ASSIGN_OR_RETURN(const ModelConfig config, model_config_from_json(json, found + "/manifest.json"));
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, make_model(config));
  STRATA_RETURN_IF_ERROR(same_parameters(reader, *model));
  for (std::size_t i = 0; i < reader.file_count(); ++i) STRATA_RETURN_IF_ERROR(reader.verify_file(i));
  std::unique_ptr<InferenceModel> self(new InferenceModel(std::move(model), threads));
  for (int u = 0; u < self->model_->unit_count(); ++u) {
    self->params_.emplace_back();
    for (const ParamSpec& spec : self->model_->unit(u).params()) {
      Tensor& values =
          self->params_.back().emplace_back(self->arena_, Category::parameters, DType::f32, spec.shape, spec.name.c_str());
      STRATA_RETURN_IF_ERROR(
          reader.read_parameter(spec, 0, std::span(values.ref().as<float>(), static_cast<std::size_t>(spec.shape.numel()))));
    }
  }
  return self;
}

Result<std::vector<float>> InferenceModel::logits(std::span<const std::int32_t> tokens, std::int64_t rows) {
  const auto T = static_cast<std::int64_t>(tokens.size());
  if (T < 1 || T > model_->max_tokens())
    return Status(Code::invalid_argument,
                  "a prompt of " + std::to_string(T) + " tokens; the model takes 1 to " + std::to_string(model_->max_tokens()));
  STRATA_CHECK(rows >= 1 && rows <= T, "rows of the sequence");
  std::vector<std::int32_t> ids(tokens.begin(), tokens.end());
  const Batch batch{{reinterpret_cast<const std::byte*>(ids.data()), DType::i32, {T}}, {}, 1, T};
  const std::vector<TensorRef> no_grads;
  const auto params_of = [&](int u) {
    std::vector<ConstTensorRef> params(params_[static_cast<std::size_t>(u)].begin(),
                                       params_[static_cast<std::size_t>(u)].end());
    for (const SharedParam& shared : model_->unit(u).shared())
      params.emplace_back(params_[static_cast<std::size_t>(shared.unit)][static_cast<std::size_t>(shared.param)]);
    return params;
  };
  Tensor x;
  for (std::size_t u = 0; u < model_->body().size(); ++u) {
    const std::vector<ConstTensorRef> params = params_of(static_cast<int>(u));
    const UnitContext ctx{stream_, arena_, DType::f32, batch, params, no_grads};
    x = model_->body()[u]->forward(ctx, x, nullptr);
  }
  const std::vector<ConstTensorRef> params = params_of(model_->unit_count() - 1);
  const UnitContext ctx{stream_, arena_, DType::f32, batch, params, no_grads};
  const Tensor logits = model_->head().logits(ctx, x.ref().rows(T - rows, rows));
  STRATA_RETURN_IF_ERROR(stream_.ref().synchronize());
  const float* values = logits.ref().as<float>();
  return std::vector<float>(values, values + logits.numel());
}

std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t draw) {
  if (options.temperature <= 0.0)
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  std::vector<double> weights;
  const double top = static_cast<double>(logits[static_cast<std::size_t>(order[0])]);
  for (const std::int32_t id : order)
    weights.push_back(std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - top) / options.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double left = total * static_cast<double>(Philox(options.seed, stream_id("generate")).uniform(draw));
  for (std::size_t i = 0; i < order.size(); ++i) {
    left -= weights[i];
    if (left < 0.0) return order[i];
  }
  return order.back();
}

}  // namespace strata
