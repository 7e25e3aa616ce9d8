// Projections that a RowMethod keeps (RowMethod::keeps_projections()): in host memory of every rank that has rows of the
// matrix, and once more in memory of the GPU where that updates some of them.
//
// Singular vectors need the whole gradient. Its rows pass, in their order and a piece at a time, from the rank that has their
// sums to all; one rank for each matrix adds up their Gram matrix, makes the projection and tells it to the others; as many
// matrices as there are ranks are made at once. So its bits depend on the gradient alone, not on how it is shared.
// Called from the step's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "offload/layout.h"
#include "optim/row_method.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

// Gives every rank's bytes, by rank; blocks. Collective.
using ByteExchange = std::function<Result<std::vector<std::vector<std::byte>>>(std::span<const std::byte> mine)>;
// Blocking. Calls the given function with this rank's sums of a unit's gradient, in their order (GradStore::look_at()).
using GradientLook = std::function<Status(int unit, const std::function<Status(const ConstTensorRef&, std::int64_t first)>&)>;

struct KeptMatrix {
  ProjectedMatrix projected;
  int unit = 0;
  std::int64_t offset = 0;  // of its first element in the unit
  std::int64_t rows = 0;
  bool on_cpu = false, on_gpu = false;  // whether this rank's records use it, and where
};

class KeptProjections {
 public:
  // All references outlive it. matrices: by unit, then by place; the same on every rank but for where they are used.
  KeptProjections(const StateLayout& layout, const RowMethod& method, std::vector<KeptMatrix> matrices, Rank rank,
                  StreamRef gpu_to_cpu, StreamRef cpu_to_gpu, StreamRef host);
  Status allocate(TierArena& gpu, TierArena& cpu);

  // Number of the projections that are there; -1: none.
  std::int64_t held() const { return held_; }
  // Blocking, and collective where ranks share gradients. Nothing that uses the projections may be enqueued. After an error
  // none are there.
  Status refresh(std::int64_t number, const GradientLook& look, const ByteExchange& exchange);

  // columns x rank (LowRankBlock::projection) on the host, for reading and for a checkpoint's values; empty: not used here.
  std::span<float> values(std::size_t matrix);
  // values() are those of this number; -1: of none. Blocking.
  Status hold(std::int64_t number);
  // Where the processor that updates reads it.
  const float* of(std::size_t matrix, bool on_gpu) const {
    const Kept& kept = kept_[matrix];
    return reinterpret_cast<const float*>((on_gpu ? kept.on_gpu : kept.on_host).data());
  }

 private:
  struct Kept {
    KeptMatrix matrix;
    Buffer on_host, on_gpu;
  };
  std::size_t owner(std::size_t matrix) const { return matrix % static_cast<std::size_t>(layout_.world.v); }
  bool is_mine(std::size_t matrix) const { return owner(matrix) == static_cast<std::size_t>(rank_.v); }
  Status refresh_from_gradients(const GradientLook& look, const ByteExchange& exchange);
  // One rank's rows of a unit.
  Status send(int unit, const GradientLook& look, const ByteExchange& exchange);
  Status send_rows(std::size_t matrix, const ConstTensorRef& values, std::int64_t first, std::int64_t rows,
                   const ByteExchange& exchange);
  Status receive(std::size_t from, const ByteExchange& exchange);
  // The next rows of a matrix, on every rank.
  Status take(std::size_t matrix, const std::byte* values, DType dtype, std::int64_t rows, const ByteExchange& exchange);
  // Makes what this rank owns of the matrices whose rows are all there, and tells it.
  Status make(const ByteExchange& exchange);

  const StateLayout& layout_;
  const RowMethod& method_;
  const Rank rank_;
  StreamRef gpu_to_cpu_, cpu_to_gpu_, host_;
  std::vector<Kept> kept_;
  std::int64_t held_ = -1;
  // Of singular vectors: the Gram matrix of what this rank owns, rows on their way, the same in f32, and a projection that
  // was made for others.
  Buffer gram_, rows_, widened_, made_;
  std::size_t next_ = 0;        // matrix whose rows come
  std::int64_t rows_seen_ = 0;  // of it
  std::vector<std::size_t> complete_;
  bool all_know_ = false;  // of an error
};

}  // namespace strata
