// Where the projections of APOLLO come from. They are functions of names and numbers, so every rank makes them for itself and
// none is communicated or kept in a checkpoint.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/thread_pool.h"

namespace strata {

class GpuDriver;
class GpuQueue;

struct ProjectedMatrix {
  std::string name = {};     // of the parameter
  std::int64_t number = 1;   // of the parameter among all that the optimizer has, in their order, from 1
  std::int64_t columns = 0;  // the shorter dim
  std::int64_t rank = 0;     // may exceed columns
  bool transposed = false;   // the layout has the matrix transposed (low_rank.h), for it is wider than high
};

// Immutable: one object serves every thread.
class ProjectionSource {
 public:
  virtual ~ProjectionSource() = default;
  // Fills projection, columns x rank (LowRankBlock::projection), with the matrix's projection of this number, from 0.
  virtual void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const = 0;
  // The same values; the pool's threads take part where they can.
  virtual void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection, ThreadPool& pool) const;
  // Whether a GPU can make them itself; else it gets a copy.
  virtual bool draws_on_gpu() const { return false; }
  // Where it can: the same bits, enqueued.
  virtual void enqueue_fill(const ProjectedMatrix& matrix, std::int64_t number, float* projection, const GpuDriver& driver,
                            GpuQueue& queue) const;
};

// Normal values of deviation 1 / sqrt(rank), element i of the projection from value i of a Philox stream of the parameter's
// name and the projection's number. The parameter's number does not count.
class PhiloxProjections final : public ProjectionSource {
 public:
  explicit PhiloxProjections(std::uint64_t seed) : seed_(seed) {}
  void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const override;
  void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection, ThreadPool& pool) const override;
  bool draws_on_gpu() const override { return true; }
  void enqueue_fill(const ProjectedMatrix& matrix, std::int64_t number, float* projection, const GpuDriver& driver,
                    GpuQueue& queue) const override;

 private:
  std::uint64_t seed_;
};

// The authors' APOLLO on a CPU (torch_random.h): the first seed is the parameter's number, each projection's seed follows from
// the one before. The time grows with the number of the projection, by microseconds each.
class TorchProjections final : public ProjectionSource {
 public:
  using ProjectionSource::fill;
  void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const override;
};

}  // namespace strata
