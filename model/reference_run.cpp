#include "model/reference_run.h"

#include <algorithm>

#include "model/init.h"
#include "runtime/kernels/elementwise.h"

namespace strata {

class ReferenceRun::Impl {
 public:
  Impl(const Model& m, const Options& options, Backend backend)
      : model(m),
        dtype(options.compute_dtype),
        device(backend, options.threads),
        arena(Tier::gpu, options.budget, backend == Backend::dry ? TierArena::Backing::none : TierArena::Backing::memory),
        stream(device, "compute") {
    STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "compute dtype");
    for (int u = 0; u < model.unit_count(); ++u) {
      units.emplace_back();
      for (const ParamSpec& spec : model.unit(u).params()) {
        Param p;
        p.spec = spec;
        p.master.resize(static_cast<std::size_t>(spec.shape.numel()));
        p.grad.resize(p.master.size());
        p.compute = Tensor(arena, Category::parameters, dtype, spec.shape, "parameter");
        units.back().push_back(std::move(p));
      }
    }
  }

  struct Param {
    ParamSpec spec;
    std::vector<float> master, grad;
    Tensor compute;
  };
  Param& at(int unit, int param) { return units.at(static_cast<std::size_t>(unit)).at(static_cast<std::size_t>(param)); }

  // The contexts of one batch: what the units see.
  struct Bound {
    std::vector<std::vector<ConstTensorRef>> params;
    std::vector<std::vector<TensorRef>> grads;
    Batch batch;
    Tensor tokens, targets;
  };

  void bind_param(Bound& bound, std::size_t unit, Param& p) {
    bound.params[unit].push_back(p.compute);
    bound.grads[unit].push_back({reinterpret_cast<std::byte*>(p.grad.data()), DType::f32, p.spec.shape});
  }

  Tensor upload(const std::vector<std::int32_t>& values) {
    Tensor t(arena, Category::activations, DType::i32, {static_cast<std::int64_t>(values.size())}, "tokens");
    // The operation owns a copy: when a later call throws, the caller's vector may be gone before it has run.
    stream.ref().enqueue("upload", [values, to = t.ref()] {
      std::copy(values.begin(), values.end(), to.as<std::int32_t>());
      return Status();
    });
    return t;
  }

  Bound bind(const Tokens& batch) {
    STRATA_CHECK(static_cast<std::int64_t>(batch.tokens.size()) == batch.B * batch.T, "tokens of a batch are B * T");
    Bound bound;
    for (auto& unit : units)
      for (Param& p : unit) {
        const ConstTensorRef master(reinterpret_cast<const std::byte*>(p.master.data()), DType::f32, p.spec.shape);
        kernels::cast({.x = master, .y = p.compute}, stream.ref());
      }
    bound.params.resize(units.size());
    bound.grads.resize(units.size());
    for (std::size_t u = 0; u < units.size(); ++u) {
      for (Param& p : units[u]) bind_param(bound, u, p);
      for (const SharedParam s : model.unit(static_cast<int>(u)).shared()) bind_param(bound, u, at(s.unit, s.param));
    }
    bound.tokens = upload(batch.tokens);
    if (!batch.targets.empty()) bound.targets = upload(batch.targets);
    bound.batch = {bound.tokens, bound.targets ? ConstTensorRef(bound.targets) : ConstTensorRef(), batch.B, batch.T};
    return bound;
  }

  UnitContext context(const Bound& bound, int unit) {
    const auto u = static_cast<std::size_t>(unit);
    return {stream.ref(), arena, dtype, bound.batch, bound.params[u], bound.grads[u]};
  }

  // Output of every body unit; with `saved`, what each keeps.
  std::vector<Tensor> forward(const Bound& bound, std::vector<Saved>* saved) {
    const auto& body = model.body();
    std::vector<Tensor> x;
    const Tensor none;
    for (std::size_t u = 0; u < body.size(); ++u)
      x.push_back(body[u]->forward(context(bound, static_cast<int>(u)), u == 0 ? none : x.back(),
                                   saved == nullptr ? nullptr : &(*saved)[u]));
    return x;
  }

  void backward(const Bound& bound, std::vector<Tensor>& x, std::vector<Saved>& saved, Tensor dy, bool recompute) {
    const auto& body = model.body();
    const Tensor none;
    for (std::size_t u = body.size(); u-- > 0;) {
      x[u].reset();  // this unit's output: its own backward does not need it
      const UnitContext ctx = context(bound, static_cast<int>(u));
      const Tensor& input = u == 0 ? none : x[u - 1];
      if (recompute) (void)body[u]->forward(ctx, input, &saved[u]);
      dy = body[u]->backward(ctx, input, std::move(dy), std::move(saved[u]));
    }
  }

  std::vector<float> download(const Tensor& t) {
    std::vector<float> out(static_cast<std::size_t>(t.numel()));
    copy_async(t.ref().data, out.data(), out.size() * sizeof(float), stream.ref());
    throw_if_error(stream.ref().synchronize());
    return out;
  }

  const Model& model;
  DType dtype;
  Device device;
  TierArena arena;
  std::vector<std::vector<Param>> units;
  Stream stream;  // last: it drains before what its operations use goes away
};

ReferenceRun::ReferenceRun(const Model& model, const Options& options) : ReferenceRun(model, options, Backend::host) {}
ReferenceRun::ReferenceRun(const Model& model, const Options& options, Backend backend)
    : impl_(std::make_unique<Impl>(model, options, backend)) {}
ReferenceRun::~ReferenceRun() = default;

void ReferenceRun::init(std::uint64_t seed) {
  for (auto& unit : impl_->units)
    for (Impl::Param& p : unit) init_parameter(p.spec, seed, 0, p.master);
}

std::span<float> ReferenceRun::param(int unit, int param) { return impl_->at(unit, param).master; }
std::span<float> ReferenceRun::grad(int unit, int param) { return impl_->at(unit, param).grad; }

void ReferenceRun::zero_grads() {
  for (auto& unit : impl_->units)
    for (Impl::Param& p : unit) std::fill(p.grad.begin(), p.grad.end(), 0.0f);
}

std::vector<float> ReferenceRun::forward_backward(const Tokens& batch, float scale, bool recompute) {
  STRATA_CHECK(batch.targets.size() == batch.tokens.size(), "a target for every token");
  const Impl::Bound bound = impl_->bind(batch);
  std::vector<Saved> saved(impl_->model.body().size());
  std::vector<Tensor> x = impl_->forward(bound, recompute ? nullptr : &saved);
  const Tensor loss_R(impl_->arena, Category::workspace, DType::f32, {batch.B * batch.T}, "loss");
  Tensor dy =
      impl_->model.head().loss_and_backward(impl_->context(bound, impl_->model.unit_count() - 1), x.back(), loss_R, scale);
  impl_->backward(bound, x, saved, std::move(dy), recompute);
  return impl_->download(loss_R);
}

std::vector<float> ReferenceRun::loss(const Tokens& batch) {
  STRATA_CHECK(batch.targets.size() == batch.tokens.size(), "a target for every token");
  const Impl::Bound bound = impl_->bind(batch);
  const std::vector<Tensor> x = impl_->forward(bound, nullptr);
  const Tensor loss_R(impl_->arena, Category::workspace, DType::f32, {batch.B * batch.T}, "loss");
  impl_->model.head().loss(impl_->context(bound, impl_->model.unit_count() - 1), x.back(), loss_R);
  return impl_->download(loss_R);
}

std::vector<float> ReferenceRun::logits(const Tokens& batch) {
  const Impl::Bound bound = impl_->bind(batch);
  const std::vector<Tensor> x = impl_->forward(bound, nullptr);
  return impl_->download(impl_->model.head().logits(impl_->context(bound, impl_->model.unit_count() - 1), x.back()));
}

TierArena& ReferenceRun::arena() { return impl_->arena; }

}  // namespace strata
