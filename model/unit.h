// What a model is made of, and what a user derives from to bring his own. A model is a list of units; a unit is what is
// gathered, computed and released together: the embedding, one transformer block, the head with the loss.
// Every call enqueues on ctx.stream and returns; see runtime/kernels/embedding.h for ordering.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

struct Init {
  enum class Kind { normal, constant } kind = Kind::normal;
  float mean = 0.0f;  // normal: mean; constant: the value
  float stddev = 0.02f;
  static Init normal(float stddev) { return {Kind::normal, 0.0f, stddev}; }
  static Init constant(float value) { return {Kind::constant, value, 0.0f}; }
};

struct ParamSpec {
  std::string name;  // unique in the model: "layers.3.mlp.down.weight"
  Shape shape;       // as it is stored
  Init init;
  bool decay = true;  // weight decay applies (false for norms and biases)
  // Weight of a linear layer inside a block: what optimizers project, and keep states of a part of, unless they are told
  // otherwise (optimizer.groups).
  bool projected = false;
  // The matrix (out, in) is stored as (in, out). Its initial value and its gradient are the same numbers, transposed.
  bool transposed = false;
  // Rows of each of the separate matrices of which a fused weight is made, one below the other: query, key and value. Empty: it
  // is one matrix. A fused weight is never transposed.
  std::vector<std::int64_t> parts = {};
};

// A parameter owned by another, earlier unit (a tied head).
struct SharedParam {
  int unit = 0;
  int param = 0;
};

struct Batch {
  ConstTensorRef tokens_R;   // i32
  ConstTensorRef targets_R;  // i32; kIgnoreTarget: no loss; empty when only logits are wanted
  std::int64_t B = 0, T = 0;
};

// What a unit sees while it runs. Indices: the unit's own params in order, then its shared ones.
struct UnitContext {
  StreamRef stream;
  TierArena& arena;     // of the compute tier
  DType compute_dtype;  // f32 or bf16: dtype of activations and of params
  const Batch& batch;
  const std::vector<ConstTensorRef>& params;
  const std::vector<TensorRef>& grads;  // f32, accumulate into them; empty in forward and evaluation
  // The unit's parameters are not trained in this step: what it adds to grads is not used and need not be computed.
  bool frozen = false;

  Tensor activation(Shape shape, const char* what) const {
    return Tensor(arena, Category::activations, compute_dtype, shape, what);
  }
  Tensor activation(DType dtype, Shape shape, const char* what) const {
    return Tensor(arena, Category::activations, dtype, shape, what);
  }
  Tensor workspace(DType dtype, Shape shape, const char* what) const {
    return Tensor(arena, Category::workspace, dtype, shape, what);
  }
};

// Tensors a forward keeps for its backward, in the unit's own order.
using Saved = std::vector<Tensor>;

class Unit {
 public:
  virtual ~Unit() = default;
  virtual std::string name() const = 0;
  virtual std::vector<ParamSpec> params() const = 0;
  virtual std::vector<SharedParam> shared() const { return {}; }
  // Allocates what the unit keeps from batch to batch, for sequences of up to T tokens: once, before the first batch. All else
  // that it allocates is gone when a step ends, so that every step finds the same memory (Engine checks it).
  virtual void prepare(StreamRef /*stream*/, TierArena& /*arena*/, std::int64_t /*T*/) {}
};

class BodyUnit : public Unit {
 public:
  // x: output of the unit before (empty for the first). It stays alive until this unit's backward has returned.
  // saved: null when nothing needs keeping (evaluation, or a forward that backward will run again).
  virtual Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) = 0;
  // dy: gradient of forward's result; may be overwritten. Returns the gradient of x (empty for the first unit). Must consume
  // `saved` (free what it no longer needs as early as it can).
  virtual Tensor backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) = 0;
};

class LossUnit : public Unit {
 public:
  // Evaluation: loss_R[r] (f32) = cross-entropy of row r.
  virtual void loss(const UnitContext& ctx, const Tensor& x, TensorRef loss_R) = 0;
  // Training: also accumulates parameter gradients of sum(loss_R) * scale and returns the gradient of x.
  virtual Tensor loss_and_backward(const UnitContext& ctx, const Tensor& x, TensorRef loss_R, float scale) = 0;
  // Logits of the given rows of x: f32 [rows, V].
  virtual Tensor logits(const UnitContext& ctx, TensorRef x_rows) = 0;
};

class Model {
 public:
  Model(std::vector<std::unique_ptr<BodyUnit>> body, std::unique_ptr<LossUnit> head, std::int64_t vocab_size,
        std::int64_t max_tokens)
      : body_(std::move(body)), head_(std::move(head)), vocab_size_(vocab_size), max_tokens_(max_tokens) {}
  // Units in order: body()[0] ... body()[n-1], head(). Unit index n is the head.
  const std::vector<std::unique_ptr<BodyUnit>>& body() const { return body_; }
  LossUnit& head() const { return *head_; }
  int unit_count() const { return static_cast<int>(body_.size()) + 1; }
  Unit& unit(int i) const;
  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t max_tokens() const { return max_tokens_; }  // longest sequence (positions)
  std::int64_t parameter_count() const;                    // shared ones once

 private:
  std::vector<std::unique_ptr<BodyUnit>> body_;
  std::unique_ptr<LossUnit> head_;
  std::int64_t vocab_size_;
  std::int64_t max_tokens_;
};

}  // namespace strata
