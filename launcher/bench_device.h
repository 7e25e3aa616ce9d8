// The processor that a benchmark runs on, the same for the host and a GPU, with memory in the gpu tier and a stream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/machine.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

struct DeviceOptions {
  std::string backend = "auto";  // auto, host, cuda
  bool tf32 = false;             // on cuda: products of f32 on tensor cores
  int threads = 0;               // of the host; 0: all cores this process may use
};
// Error invalid_config: cuda was asked for and there is none, with the reason.
Result<std::unique_ptr<Device>> make_bench_device(const DeviceOptions& options);
// describe_machine() with the GPU, where `device` is one.
Machine describe_machine(const Device& device);

// Memory, a stream and scratch like those of training. Throws StatusError when there is not enough memory.
class Workbench {
 public:
  // gpu_bytes: of TensorSets, see rehearse().
  Workbench(Device& device, std::size_t gpu_bytes);
  ~Workbench();
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  // Bytes of the gpu tier that `work` needs: it is called with a workbench of the dry backend, where streams execute nothing.
  static std::size_t rehearse(const Device& device, const std::function<void(Workbench&)>& work);

  Device& device() const { return device_; }
  StreamRef stream() const { return *stream_; }
  bool dry() const { return device_.backend() == Backend::dry; }

 private:
  friend class TensorSet;
  Device& device_;
  TierArena gpu_;
  TierArena cpu_;
  Buffer scratch_, staging_;  // staging: host memory through which tensors are filled
  std::unique_ptr<Stream> stream_;
};

// Tensors of the gpu tier that are given back together. Their contents are there when the call returns. Large tensors do not
// lie at a distance of a power of two (kArraySkew).
class TensorSet {
 public:
  // The bench outlives the set.
  explicit TensorSet(Workbench& bench) : bench_(bench) {}
  ~TensorSet();  // waits for the stream, whose operations may use the tensors
  TensorSet(const TensorSet&) = delete;
  TensorSet& operator=(const TensorSet&) = delete;

  // Between offset - scale / 2 and offset + scale / 2; f32 or bf16.
  TensorRef filled(DType dtype, Shape shape, float scale, float offset = 0.0f);
  // 1 and -1 in turns: rows whose root mean square is 1.
  TensorRef signs(DType dtype, Shape shape);
  TensorRef zeros(DType dtype, Shape shape);
  // i32 in [0, limit), the same ones every time. `distinct`, where given: how many different ones.
  TensorRef indices(Shape shape, std::int64_t limit, std::int64_t* distinct = nullptr);

 private:
  TensorRef allocate(DType dtype, Shape shape);
  TensorRef repeat(DType dtype, Shape shape, const std::function<float(int)>& value);

  Workbench& bench_;
  std::vector<Buffer> buffers_;
};

}  // namespace strata
