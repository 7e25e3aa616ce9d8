// The forward of one unit of a model with made-up values: what is timed where the seconds of a unit are measured.
#pragma once

#include <cstdint>
#include <vector>

#include "model/unit.h"
#include "trainer/engine.h"
#include "trainer/workbench.h"

namespace strata {

// Stands for every unit of the model: its last body unit, a block of most models.
class UnitForward {
 public:
  // Takes from `options` what computing needs: dtypes, micro-batch and sequence length, recomputation. On a bench of the dry
  // backend too. The bench and the model outlive it. Throws StatusError.
  UnitForward(Workbench& bench, const Model& model, const EngineOptions& options);
  // What the unit keeps from batch to batch (Unit::prepare) lives in the bench's memory: makes it let go.
  ~UnitForward();
  UnitForward(const UnitForward&) = delete;
  UnitForward& operator=(const UnitForward&) = delete;

  // One forward of one micro-batch on the bench's stream.
  void enqueue();

 private:
  std::vector<ConstTensorRef> params_of(std::size_t unit);
  // Of the unit's input, found by running the units before it on the dry backend; empty for the first unit.
  struct Input {
    bool given = false;
    DType dtype = DType::f32;
    Shape shape;
  };
  Input find_input() const;

  Workbench& bench_;
  const Model& model_;
  const EngineOptions options_;
  TensorSet tensors_;
  BodyUnit& unit_;
  Batch batch_;
  std::vector<ConstTensorRef> params_;
  Tensor x_;
};

}  // namespace strata
