#include "model/reference_run.h"

#include <algorithm>

#include "model/init.h"
#include "runtime/host_mirror.h"
#include "runtime/kernels/elementwise.h"

namespace strata {

namespace {

constexpr std::size_t kGpuScratchBytes = std::size_t{64} << 20;
constexpr std::size_t kHostBytes = std::size_t{16} << 20;  // of a batch, and of what is looked at

// Of masters and gradients: f32, each in whole pages of an arena.
std::size_t state_bytes(const Model& model) {
  std::size_t bytes = 0;
  for (int u = 0; u < model.unit_count(); ++u)
    for (const ParamSpec& spec : model.unit(u).params()) {
      const std::size_t one = static_cast<std::size_t>(spec.shape.numel()) * sizeof(float);
      bytes += 2 * ((one + TierArena::kAlignment - 1) / TierArena::kAlignment * TierArena::kAlignment);
    }
  return bytes;
}

std::span<float> floats(const TensorRef& t) { return {t.as<float>(), static_cast<std::size_t>(t.numel())}; }

}  // namespace

class ReferenceRun::Impl {
 public:
  Impl(const Model& m, const Options& options, Backend backend)
      : model(m),
        dtype(options.compute_dtype),
        device(options.make_gpu ? std::make_unique<Device>(options.make_gpu(), options.threads)
                                : std::make_unique<Device>(backend, options.threads)),
        states(Tier::gpu, state_bytes(m), *device),
        host(Tier::cpu, state_bytes(m) + kHostBytes, *device),
        arena(Tier::gpu, options.budget, *device),
        stream(*device, "compute") {
    STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "compute dtype");
    for (int u = 0; u < model.unit_count(); ++u) {
      units.emplace_back();
      for (const ParamSpec& spec : model.unit(u).params())
        units.back().push_back(
            {.spec = spec,
             .master = HostMirror(*device, states, host, Category::parameters, DType::f32, spec.shape, "master"),
             .grad = HostMirror(*device, states, host, Category::gradients, DType::f32, spec.shape, "gradient"),
             .compute = Tensor(arena, Category::parameters, dtype, spec.shape, "parameter")});
    }
    zero_grads();
    if (device->has_separate_memory()) {
      Result<Buffer> buffer = arena.allocate(kGpuScratchBytes, Category::workspace, "scratch of a stream");
      throw_if_error(buffer.status());
      scratch = std::move(buffer).value();
      stream.set_scratch({scratch.data(), scratch.size()});
    }
  }

  struct Param {
    ParamSpec spec;
    HostMirror master, grad;
    Tensor compute;
  };
  Param& at(int unit, int param) { return units.at(static_cast<std::size_t>(unit)).at(static_cast<std::size_t>(param)); }
  bool dry() const { return device->backend() == Backend::dry; }

  void zero_grads() {
    if (dry()) return;
    for (auto& unit : units)
      for (Param& p : unit) std::ranges::fill(floats(p.grad.host()), 0.0f);
  }

  // The contexts of one batch: what the units see. Whatever was enqueued for it is done before it goes.
  struct Bound {
    explicit Bound(Stream& on) : stream(on) {}
    ~Bound() { (void)stream.ref().record().drain(); }
    Bound(const Bound&) = delete;
    Bound& operator=(const Bound&) = delete;
    Stream& stream;
    std::vector<std::vector<ConstTensorRef>> params;
    std::vector<std::vector<TensorRef>> grads;
    Batch batch;
    HostMirror tokens, targets;
  };

  static void bind_param(Bound& bound, std::size_t unit, Param& p) {
    bound.params[unit].push_back(p.compute);
    bound.grads[unit].push_back(p.grad.ref());
  }

  HostMirror upload(const std::vector<std::int32_t>& values) {
    HostMirror t(*device, arena, host, Category::activations, DType::i32, {static_cast<std::int64_t>(values.size())}, "tokens");
    if (!dry()) std::copy(values.begin(), values.end(), t.host().as<std::int32_t>());
    t.upload(stream);
    return t;
  }

  std::unique_ptr<Bound> bind(const Tokens& batch) {
    STRATA_CHECK(static_cast<std::int64_t>(batch.tokens.size()) == batch.B * batch.T, "tokens of a batch are B * T");
    auto bound = std::make_unique<Bound>(stream);
    for (auto& unit : units)
      for (Param& p : unit) {
        p.master.upload(stream);
        p.grad.upload(stream);
        kernels::cast({.x = p.master.ref(), .y = p.compute}, stream.ref());
      }
    bound->params.resize(units.size());
    bound->grads.resize(units.size());
    for (std::size_t u = 0; u < units.size(); ++u) {
      for (Param& p : units[u]) bind_param(*bound, u, p);
      for (const SharedParam s : model.unit(static_cast<int>(u)).shared()) bind_param(*bound, u, at(s.unit, s.param));
    }
    bound->tokens = upload(batch.tokens);
    bound->batch = {bound->tokens.ref(), {}, batch.B, batch.T};
    if (!batch.targets.empty()) {
      bound->targets = upload(batch.targets);
      bound->batch.targets_R = bound->targets.ref();
    }
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
    if (dry()) return out;
    // Through page-locked memory, in pieces; where there is one memory only, it costs a copy.
    const Tensor window(host, Category::other, DType::f32, {std::int64_t{1} << 18}, "window");
    for (std::size_t at = 0; at < out.size();) {
      const std::size_t n = std::min(out.size() - at, static_cast<std::size_t>(window.numel()));
      copy_async(t.ref().as<float>() + at, window.ref().data, n * sizeof(float), stream.ref());
      throw_if_error(stream.ref().synchronize());
      std::copy_n(window.ref().as<float>(), n, out.data() + at);
      at += n;
    }
    return out;
  }

  void download_grads() {
    for (auto& unit : units)
      for (Param& p : unit) p.grad.download(stream);
  }

  const Model& model;
  DType dtype;
  std::unique_ptr<Device> device;
  TierArena states, host, arena;
  std::vector<std::vector<Param>> units;
  Buffer scratch;
  Stream stream;  // last: it drains before what its operations use goes away
};

ReferenceRun::ReferenceRun(const Model& model, const Options& options) : ReferenceRun(model, options, Backend::host) {}
ReferenceRun::ReferenceRun(const Model& model, const Options& options, Backend backend)
    : impl_(std::make_unique<Impl>(model, options, backend)) {}
ReferenceRun::~ReferenceRun() = default;

void ReferenceRun::init(std::uint64_t seed) {
  for (auto& unit : impl_->units)
    for (Impl::Param& p : unit) init_parameter(p.spec, seed, 0, floats(p.master.host()));
}

std::span<float> ReferenceRun::param(int unit, int param) { return floats(impl_->at(unit, param).master.host()); }
std::span<float> ReferenceRun::grad(int unit, int param) { return floats(impl_->at(unit, param).grad.host()); }

void ReferenceRun::zero_grads() { impl_->zero_grads(); }

std::vector<float> ReferenceRun::forward_backward(const Tokens& batch, float scale, bool recompute) {
  STRATA_CHECK(batch.targets.size() == batch.tokens.size(), "a target for every token");
  const auto bound = impl_->bind(batch);
  std::vector<Saved> saved(impl_->model.body().size());
  std::vector<Tensor> x = impl_->forward(*bound, recompute ? nullptr : &saved);
  const Tensor loss_R(impl_->arena, Category::workspace, DType::f32, {batch.B * batch.T}, "loss");
  Tensor dy =
      impl_->model.head().loss_and_backward(impl_->context(*bound, impl_->model.unit_count() - 1), x.back(), loss_R, scale);
  impl_->backward(*bound, x, saved, std::move(dy), recompute);
  impl_->download_grads();
  return impl_->download(loss_R);
}

std::vector<float> ReferenceRun::loss(const Tokens& batch) {
  STRATA_CHECK(batch.targets.size() == batch.tokens.size(), "a target for every token");
  const auto bound = impl_->bind(batch);
  const std::vector<Tensor> x = impl_->forward(*bound, nullptr);
  const Tensor loss_R(impl_->arena, Category::workspace, DType::f32, {batch.B * batch.T}, "loss");
  impl_->model.head().loss(impl_->context(*bound, impl_->model.unit_count() - 1), x.back(), loss_R);
  return impl_->download(loss_R);
}

std::vector<float> ReferenceRun::logits(const Tokens& batch) {
  const auto bound = impl_->bind(batch);
  const std::vector<Tensor> x = impl_->forward(*bound, nullptr);
  return impl_->download(impl_->model.head().logits(impl_->context(*bound, impl_->model.unit_count() - 1), x.back()));
}

TierArena& ReferenceRun::arena() { return impl_->arena; }

}  // namespace strata
