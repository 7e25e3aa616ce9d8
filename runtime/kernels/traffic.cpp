#include "runtime/kernels/traffic.h"

#include <algorithm>

#include "runtime/kernels/traffic_table.h"
#include "runtime/status.h"

namespace strata::kernels {
namespace {

constexpr std::int64_t kBlock = std::int64_t{1} << 16;  // as of adamw_update
static_assert(kBlock % UpdateTraffic::kChunk == 0);

#if defined(__x86_64__)
constexpr UpdateStores kAvailable[] = {UpdateStores::ordinary, UpdateStores::prefetched, UpdateStores::streaming};
#else
constexpr UpdateStores kAvailable[] = {UpdateStores::ordinary, UpdateStores::prefetched};
#endif

UpdateTraffic part(const UpdateTraffic& t, std::int64_t begin, std::int64_t n) {
  return {.updated = {t.updated[0] + begin, t.updated[1] + begin, t.updated[2] + begin},
          .read = t.read + begin,
          .written = t.written != nullptr ? t.written + begin : nullptr,
          .n = n};
}

}  // namespace

const char* to_string(UpdateStores stores) {
  switch (stores) {
    case UpdateStores::ordinary: return "ordinary stores";
    case UpdateStores::prefetched: return "ordinary stores, prefetched";
    case UpdateStores::streaming: return "streaming stores";
  }
  return "?";
}

std::span<const UpdateStores> available_update_stores() { return kAvailable; }

void move_update_traffic(UpdateStores stores, const UpdateTraffic& traffic, ThreadPool& pool) {
  STRATA_CHECK(traffic.n >= 0 && traffic.n % UpdateTraffic::kChunk == 0, "traffic is measured in whole chunks");
  const TrafficTable& table = traffic_table();
  const auto body = stores == UpdateStores::ordinary     ? table.ordinary
                    : stores == UpdateStores::prefetched ? table.prefetched
                                                         : table.streaming;
  pool.parallel_for((traffic.n + kBlock - 1) / kBlock, [&](std::int64_t block) {
    const std::int64_t begin = block * kBlock;
    body(part(traffic, begin, std::min(kBlock, traffic.n - begin)));
  });
}

}  // namespace strata::kernels
