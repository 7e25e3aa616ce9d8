#include <algorithm>
#include <array>
#include <memory>

#include "launcher/bench_optimizers.h"
#include "launcher/bench_traffic.h"
#include "optim/adamw.h"
#include "optim/apollo_optimizer.h"
#include "optim/frugal.h"
#include "optim/galore_optimizer.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "trainer/sample_update.h"

namespace strata {
namespace {

constexpr UpdateStep kStep{.number = 10, .lr = 1e-4, .grad_scale = 0.9};
constexpr ParamGroup kGroup{.weight_decay = 0.01, .projected = true};

constexpr std::array kChosen = {StatefulKind::columns, StatefulKind::rows, StatefulKind::entries};

// Bytes a parameter with and without two states.
constexpr double kWeightAndGradient = 12.0, kOneState = 8.0, kTwoStates = 16.0;
constexpr double kEightBitBytes = kTwoStates / 4.0 * kEightBitStates.block_bytes / kEightBitStates.block;

}  // namespace

const std::vector<std::string>& bench_method_names() {
  static const std::vector<std::string> names = {"adamw",        "adamw-bf16",     "adamw-8bit",  "lion",         "sgd",
                                                 "sgd-momentum", "frugal-columns", "frugal-rows", "frugal-randk", "frugal-0",
                                                 "apollo",       "apollo-mini",    "galore"};
  return names;
}

class MethodArrays::Impl {
 public:
  Impl(Workbench& bench, TensorSet& tensors, const MatrixShape& shape)
      : bench_(bench),
        shape_(shape),
        rows_(std::max(shape.rows, shape.columns)),
        columns_(std::min(shape.rows, shape.columns)) {
    slice_ = sample_update(tensors, whole_traffic_chunks(rows_ * columns_), {});
    slice_.n = rows_ * columns_;
    slice16_ = packed_slice(tensors, kBf16States, DType::bf16);
    slice8_ = packed_slice(tensors, kEightBitStates, DType::f32);  // codes of any kind
    projection_ = tensors.filled(DType::f32, {columns_, shape.rank}, 0.2f).as<float>();
    results_.s = tensors.zeros(DType::f32, {rows_}).as<float>();
    for (double** squares : {&results_.g_squares, &results_.r_squares, &results_.n_squares})
      *squares = reinterpret_cast<double*>(tensors.zeros(DType::f32, {2 * rows_}).data);
    if (!bench.device().has_separate_memory()) return;
    for (std::size_t i = 0; i < kChosen.size(); ++i)
      words_[i] = tensors.zeros(DType::f32, {2 * StatefulSet::word_count(kChosen[i], shape.rows, shape.columns)});
  }

  const UpdateSlice& slice() const { return slice_; }

  MethodRun run(const std::string& name) {
    const double low_rank_states = kTwoStates / static_cast<double>(columns_);  // a rank
    if (name == "adamw") return element_wise(std::make_unique<AdamW>(), kWeightAndGradient + kTwoStates);
    if (name == "adamw-bf16")
      return element_wise(std::make_unique<AdamW>(AdamWConfig(), StateStorage{.format = kBf16States}),
                          kWeightAndGradient + kTwoStates / 2.0, slice16_);
    if (name == "adamw-8bit")
      return element_wise(std::make_unique<AdamW>(AdamWConfig(), StateStorage{.format = kEightBitStates}),
                          kWeightAndGradient + kEightBitBytes, slice8_);
    if (name == "lion") return element_wise(std::make_unique<Lion>(), kWeightAndGradient + kOneState);
    if (name == "sgd") return element_wise(std::make_unique<Sgd>(), kWeightAndGradient);
    if (name == "sgd-momentum")
      return element_wise(std::make_unique<Sgd>(SgdConfig{.momentum = 0.9}), kWeightAndGradient + kOneState);
    if (name == "frugal-columns") return frugal(FrugalChoice::columns, shape_.density);
    if (name == "frugal-rows") return frugal(FrugalChoice::rows, shape_.density);
    if (name == "frugal-randk") return frugal(FrugalChoice::entries, shape_.density);
    if (name == "frugal-0") return frugal(FrugalChoice::columns, 0.0);
    const auto rank = static_cast<double>(shape_.rank);
    if (name == "apollo")
      return {.bytes_per_parameter = 16.0 + low_rank_states * rank, .flops_per_parameter = 2.0 * rank, .enqueue = [this] {
                apollo(apollo_, shape_.rank);
              }};
    if (name == "apollo-mini")
      return {.bytes_per_parameter = 16.0 + low_rank_states, .enqueue = [this] { apollo(apollo_mini_, 1); }};
    STRATA_CHECK(name == "galore", "no benchmark has a method " + name);
    return {.bytes_per_parameter = 12.0 + low_rank_states * rank, .flops_per_parameter = 4.0 * rank, .enqueue = [this] {
              galore();
            }};
  }

 private:
  bool on_gpu() const { return bench_.stream().on_gpu(); }

  // With states in another format, in memory of their own that has values of `stored`.
  UpdateSlice packed_slice(TensorSet& tensors, const StateFormat& format, DType stored) const {
    UpdateSlice slice = slice_;
    slice.states = {};
    slice.format = format;
    const auto bytes_each = static_cast<std::int64_t>(size_of(stored));
    const std::int64_t count = (format.bytes(slice.n) + bytes_each - 1) / bytes_each;
    for (std::byte*& state : slice.packed) state = tensors.filled(stored, {count}, 1e-3f, 2e-3f).data;
    return slice;
  }

  MethodRun element_wise(std::unique_ptr<const Optimizer> method, double bytes) {
    return element_wise(std::move(method), bytes, slice_);
  }
  MethodRun element_wise(std::unique_ptr<const Optimizer> method, double bytes, const UpdateSlice& slice) {
    const Optimizer* kept = methods_.emplace_back(std::move(method)).get();
    return {.bytes_per_parameter = bytes, .enqueue = [=, stream = bench_.stream()] {
              if (stream.on_gpu()) return kept->enqueue_on_gpu(slice, kStep, kGroup, stream.device().gpu(), stream.queue());
              stream.enqueue(kept->name(), [=, &pool = stream.device().pool()] {
                update(*kept, slice, kStep, kGroup, pool);
                return Status();
              });
            }};
  }

  MethodRun frugal(FrugalChoice choice, double density) {
    auto method = std::make_unique<Frugal>(FrugalConfig{.choice = choice, .density = density});
    const StatefulSet& set =
        sets_.emplace_back(method->stateful({.name = "matrix", .rows = shape_.rows, .columns = shape_.columns}, kGroup, 0));
    const StatefulWord* words = nullptr;
    for (std::size_t i = 0; i < kChosen.size(); ++i) {
      if (!on_gpu() || set.map().kind != kChosen[i]) continue;
      copy_async(set.words().data(), words_[i].data, set.words().size_bytes(), bench_.stream());
      throw_if_error(bench_.stream().synchronize());
      words = reinterpret_cast<const StatefulWord*>(words_[i].data);
    }
    const double part = static_cast<double>(set.states()) / static_cast<double>(slice_.n);
    return element_wise(std::move(method), kWeightAndGradient + kTwoStates * part, stateful_slice(set, slice_, 0, words));
  }

  // Rows [first, first + n) of the matrix as low_rank.h has it.
  LowRankBlock block(std::int64_t first, std::int64_t n, std::int64_t rank) const {
    return {.rows = n,
            .columns = columns_,
            .rank = rank,
            .g = slice_.g + first * columns_,
            .projection = projection_,
            .m = slice_.states[0] + first * rank,
            .v = slice_.states[1] + first * rank};
  }
  WeightRows weights(std::int64_t first) const { return {.p = slice_.p + first * columns_}; }
  // As stores do, but that the host does not add the sums of what a GPU measured.
  void apollo(const Apollo& method, std::int64_t rank) {
    const StreamRef stream = bench_.stream();
    const LowRankBlock all = block(0, rows_, rank);
    if (on_gpu()) {
      const GpuDriver& gpu = stream.device().gpu();
      method.enqueue_measure(all, kStep, results_, gpu, stream.queue());
      method.enqueue_apply(all, results_.s, weights(0), 1.0, kStep, kGroup, gpu, stream.queue());
      return;
    }
    stream.enqueue("apollo", [this, &method, all, &pool = stream.device().pool()] {
      measure(method, all, kStep, results_, pool);
      ApolloSums sums;
      add_rows(results_, rows_, sums);
      apply(method, all, results_.s, weights(0), method.scale(sums, limiter_), kStep, kGroup, pool);
      return Status();
    });
  }

  void galore() {
    const StreamRef stream = bench_.stream();
    const LowRankBlock all = block(0, rows_, shape_.rank);
    if (on_gpu())
      return galore_.enqueue_apply(all, nullptr, weights(0), 1.0, kStep, kGroup, stream.device().gpu(), stream.queue());
    stream.enqueue("galore", [this, all, &pool = stream.device().pool()] {
      apply(galore_, all, nullptr, weights(0), 1.0, kStep, kGroup, pool);
      return Status();
    });
  }

  Workbench& bench_;
  const MatrixShape shape_;
  const std::int64_t rows_, columns_;     // as low_rank.h has the matrix: the longer dim as rows
  UpdateSlice slice_, slice16_, slice8_;  // the latter with states in bf16 and 8 bits
  float* projection_ = nullptr;
  RowResults results_;
  std::array<TensorRef, kChosen.size()> words_{};  // the GPU's copies
  const Apollo apollo_{{}}, apollo_mini_{{.apollo = {.scaling = ApolloScaling::tensor, .scale = 128.0}, .rank = 1}};
  const Galore galore_{{}};
  double limiter_ = -1.0;
  std::vector<std::unique_ptr<const Optimizer>> methods_;
  std::vector<StatefulSet> sets_;  // slices refer to their words, which copies share
};

MethodArrays::MethodArrays(Workbench& bench, TensorSet& tensors, const MatrixShape& shape)
    : impl_(std::make_unique<Impl>(bench, tensors, shape)) {}
MethodArrays::~MethodArrays() = default;
const UpdateSlice& MethodArrays::slice() const { return impl_->slice(); }
MethodRun MethodArrays::run(const std::string& name) { return impl_->run(name); }

}  // namespace strata
