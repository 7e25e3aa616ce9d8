// The loops of peak.h, one table per instruction set.
#pragma once

#include <cstdint>

#include "runtime/kernels/isa.h"

namespace strata::kernels {

struct PeakTable {
  // Each: `rounds` rounds of flop_per_round operations; returns something that depends on all of them.
  float (*f32)(std::int64_t rounds);
  float (*bf16)(std::int64_t rounds);  // null without the instructions
  double f32_flop_per_round;
  double bf16_flop_per_round;
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(PeakTable, peak_table)
