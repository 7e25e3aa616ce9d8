#include "trainer/workbench.h"

#include <algorithm>

#include "runtime/rng.h"

namespace strata {
namespace {

constexpr int kPattern = 1013;  // a prime, so that rows differ
constexpr std::size_t kStagingElements = std::size_t{1024} * kPattern;
constexpr std::size_t kScratchBytes = std::size_t{64} << 20;  // as engine.cpp gives to the compute stream
constexpr std::size_t kUnlimited = std::size_t{1} << 60;

std::size_t scratch_bytes(const Device& device) { return device.has_separate_memory() ? kScratchBytes : 0; }

}  // namespace

Workbench::Workbench(Device& device, TierBytes bytes)
    : device_(device),
      gpu_(Tier::gpu, bytes.gpu, device),
      cpu_(Tier::cpu, bytes.cpu, device),
      stream_(std::make_unique<Stream>(device, "compute")) {
  const auto take = [](TierArena& arena, std::size_t size) {
    Result<Buffer> buffer = arena.allocate(size, Category::workspace, "workspace of a benchmark");
    throw_if_error(buffer.status());
    return std::move(buffer).value();
  };
  staging_ = take(cpu_, kStagingElements * sizeof(float));
  if (scratch_bytes(device) == 0) return;
  scratch_ = take(gpu_, scratch_bytes(device));
  stream_->set_scratch({scratch_.data(), scratch_.size()});
}

Workbench::~Workbench() = default;

TierBytes Workbench::rehearse(const Device& device, const std::function<void(Workbench&)>& work) {
  Device dry(Backend::dry, device.threads(), device.planned());
  Workbench bench(dry, {.gpu = kUnlimited, .cpu = kUnlimited});
  work(bench);
  return {.gpu = bench.gpu_.report().high_water, .cpu = bench.cpu_.report().high_water};
}

TensorSet::~TensorSet() { (void)bench_.stream().record().drain(); }  // the stream prints an error that nobody was given

TensorRef TensorSet::allocate(DType dtype, Shape shape) {
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  Result<Buffer> buffer = bench_.arena(tier_).allocate(bytes + kArraySkew, Category::workspace, "tensor of a benchmark");
  throw_if_error(buffer.status());
  buffers_.push_back(std::move(buffer).value());
  return {buffers_.back().data(), dtype, shape};
}

// A pattern of kPattern values is written once into host memory and copied to all of the tensor.
void TensorSet::repeat(const TensorRef& tensor, const std::function<float(int)>& value) {
  if (bench_.dry()) return;
  const DType dtype = tensor.dtype;
  STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "patterns are f32 or bf16");
  std::byte* staging = bench_.staging_.data();
  const std::size_t elements = std::min(kStagingElements, static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < elements; ++i) {
    const float x = value(static_cast<int>(i % kPattern));
    if (dtype == DType::f32)
      reinterpret_cast<float*>(staging)[i] = x;
    else
      reinterpret_cast<bf16*>(staging)[i] = to_bf16(x);
  }
  const std::size_t piece = elements * size_of(dtype);
  for (std::size_t at = 0; at < tensor.bytes(); at += piece)
    copy_async(staging, tensor.data + at, std::min(piece, tensor.bytes() - at), bench_.stream());
  throw_if_error(bench_.stream().synchronize());
}

void TensorSet::fill(const TensorRef& tensor, float scale, float offset) {
  repeat(tensor, [=](int i) { return offset + scale * (static_cast<float>(i) / float{kPattern} - 0.5f); });
}

TensorRef TensorSet::filled(DType dtype, Shape shape, float scale, float offset) {
  const TensorRef tensor = allocate(dtype, shape);
  fill(tensor, scale, offset);
  return tensor;
}

TensorRef TensorSet::signs(DType dtype, Shape shape) {
  const TensorRef tensor = allocate(dtype, shape);
  repeat(tensor, [](int i) { return i % 2 == 0 ? 1.0f : -1.0f; });
  return tensor;
}

TensorRef TensorSet::zeros(DType dtype, Shape shape) {
  const TensorRef tensor = allocate(dtype, shape);
  if (bench_.dry()) return tensor;
  zero_async(tensor.data, tensor.bytes(), bench_.stream());
  throw_if_error(bench_.stream().synchronize());
  return tensor;
}

TensorRef TensorSet::indices(Shape shape, std::int64_t limit, std::int64_t* distinct) {
  const TensorRef tensor = allocate(DType::i32, shape);
  if (bench_.dry()) return tensor;
  const Philox draw(1234, stream_id("indices of a benchmark"));
  std::vector<bool> seen(static_cast<std::size_t>(limit));
  auto* staging = reinterpret_cast<std::int32_t*>(bench_.staging_.data());
  constexpr auto kMost = static_cast<std::int64_t>(kStagingElements);
  for (std::int64_t first = 0; first < shape.numel(); first += kMost) {
    const std::int64_t count = std::min(kMost, shape.numel() - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::size_t value = draw.u32(static_cast<std::uint64_t>(first + i)) % seen.size();
      seen[value] = true;
      staging[i] = static_cast<std::int32_t>(value);
    }
    copy_async(staging, tensor.as<std::int32_t>() + first, static_cast<std::size_t>(count) * sizeof(std::int32_t),
               bench_.stream());
    throw_if_error(bench_.stream().synchronize());
  }
  if (distinct != nullptr) *distinct = std::count(seen.begin(), seen.end(), true);
  return tensor;
}

}  // namespace strata
