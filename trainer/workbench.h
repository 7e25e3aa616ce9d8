// Where parts of training are measured alone, the same for the host and a GPU: memory of both tiers, and a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

// Added to the size of every large array of a benchmark: arrays whose distance is a multiple of a large power of two meet in
// the same sets of the caches and the same banks of memory, and reading several of them at once halves the rate.
inline constexpr std::size_t kArraySkew = std::size_t{64} << 10;

struct TierBytes {
  std::size_t gpu = 0, cpu = 0;
};

// Memory, a stream and scratch like those of training. Throws StatusError when there is not enough memory.
class Workbench {
 public:
  Workbench(Device& device, TierBytes bytes);  // see rehearse()
  ~Workbench();
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  // What a workbench needs for `work`, its own included: `work` is called with one of the dry backend, where streams execute
  // nothing.
  static TierBytes rehearse(const Device& device, const std::function<void(Workbench&)>& work);

  Device& device() const { return device_; }
  StreamRef stream() const { return *stream_; }
  TierArena& arena(Tier tier) { return tier == Tier::gpu ? gpu_ : cpu_; }  // gpu or cpu
  bool dry() const { return device_.backend() == Backend::dry; }

 private:
  friend class TensorSet;
  Device& device_;
  TierArena gpu_, cpu_;
  Buffer scratch_, staging_;  // staging: host memory through which tensors are filled
  std::unique_ptr<Stream> stream_;
};

// Tensors of one tier that are given back together. Their contents are there when the call returns. Large tensors do not
// lie at a distance of a power of two (kArraySkew).
class TensorSet {
 public:
  // The bench outlives the set.
  explicit TensorSet(Workbench& bench, Tier tier = Tier::gpu) : bench_(bench), tier_(tier) {}
  ~TensorSet();  // waits for the stream, whose operations may use the tensors
  TensorSet(const TensorSet&) = delete;
  TensorSet& operator=(const TensorSet&) = delete;

  // Between offset - scale / 2 and offset + scale / 2; f32 or bf16.
  TensorRef filled(DType dtype, Shape shape, float scale, float offset = 0.0f);
  // The same into memory of anybody.
  void fill(const TensorRef& tensor, float scale, float offset = 0.0f);
  // 1 and -1 in turns: rows whose root mean square is 1.
  TensorRef signs(DType dtype, Shape shape);
  TensorRef zeros(DType dtype, Shape shape);
  // i32 in [0, limit), the same ones every time. `distinct`, where given: how many different ones.
  TensorRef indices(Shape shape, std::int64_t limit, std::int64_t* distinct = nullptr);

 private:
  TensorRef allocate(DType dtype, Shape shape);
  void repeat(const TensorRef& tensor, const std::function<float(int)>& value);

  Workbench& bench_;
  Tier tier_;
  std::vector<Buffer> buffers_;
};

}  // namespace strata
