// The loops of traffic.h, one table per instruction set.
#pragma once

#include "runtime/kernels/isa.h"
#include "runtime/kernels/traffic.h"

namespace strata::kernels {

struct TrafficTable {
  void (*ordinary)(const UpdateTraffic&);
  void (*prefetched)(const UpdateTraffic&);
  void (*streaming)(const UpdateTraffic&);
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(TrafficTable, traffic_table)
