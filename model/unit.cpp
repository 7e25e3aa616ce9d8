#include "model/unit.h"

namespace strata {

Unit& Model::unit(int i) const {
  STRATA_CHECK(i >= 0 && i < unit_count(), "unit index");
  if (i == static_cast<int>(body_.size())) return *head_;
  return *body_[static_cast<std::size_t>(i)];
}

std::int64_t Model::parameter_count() const {
  std::int64_t n = 0;
  for (int i = 0; i < unit_count(); ++i)
    for (const ParamSpec& p : unit(i).params()) n += p.shape.numel();
  return n;
}

}  // namespace strata
