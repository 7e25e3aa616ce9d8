// What a kernel found wrong with its input. On a GPU each queue has one, written by the first kernel that finds something and
// read by the host when it waits for the queue.
#pragma once

#include <cstdint>

#include "runtime/status.h"

namespace strata {

enum class GpuFaultKind : std::uint32_t { none = 0, token_outside_vocabulary, target_outside_vocabulary };

// In host memory that the device can write. Zero: no fault.
struct GpuFault {
  std::uint32_t kind = 0;  // GpuFaultKind; set by an atomic compare-and-swap from 0, so the first fault of a kernel stays
  std::int32_t value = 0;  // the offending value
  std::int64_t row = 0;
  std::int64_t limit = 0;  // size of the vocabulary

  static GpuFault at(GpuFaultKind kind, std::int64_t row, std::int32_t value, std::int64_t limit) {
    return {static_cast<std::uint32_t>(kind), value, row, limit};
  }
};

// The error of whoever enqueued the kernel; ok for GpuFaultKind::none.
Status to_status(const GpuFault& fault);

}  // namespace strata
