#include "runtime/gpu/fault.h"

#include <string>

#include "runtime/kernels/cross_entropy.h"

namespace strata {

Status to_status(const GpuFault& fault) {
  const auto outside = [&](const char* what) {
    return std::string(what) + " " + std::to_string(fault.value) + " of row " + std::to_string(fault.row) +
           " is outside the vocabulary [0, " + std::to_string(fault.limit) + ")";
  };
  switch (static_cast<GpuFaultKind>(fault.kind)) {
    case GpuFaultKind::none: return {};
    case GpuFaultKind::token_outside_vocabulary:
      return {Code::invalid_argument, outside("token") + "; was the data made with another tokenizer?"};
    case GpuFaultKind::target_outside_vocabulary:
      return {Code::invalid_argument,
              outside("target") + " and is not " + std::to_string(kernels::kIgnoreTarget) + " (ignored)"};
  }
  return {Code::internal, "a kernel reported fault " + std::to_string(fault.kind) + ", which this program does not know"};
}

}  // namespace strata
