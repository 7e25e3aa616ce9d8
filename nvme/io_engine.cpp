#include "nvme/io_engine.h"

#include "nvme/format.h"
#include "nvme/thread_engine.h"
#include "nvme/uring_engine.h"

namespace strata {
namespace {

constexpr unsigned kMaxQueueDepth = 4096;
constexpr std::size_t kMaxBlockBytes = std::size_t{1} << 30;  // the kernel moves less than 2 GiB at once

Status check(const IoEngineOptions& options) {
  if (options.queue_depth < 1 || options.queue_depth > kMaxQueueDepth) {
    return {Code::invalid_argument,
            "I/O queue depth " + std::to_string(options.queue_depth) + " is not in 1.." + std::to_string(kMaxQueueDepth)};
  }
  if (options.block_bytes < format::kBlockBytes || options.block_bytes > kMaxBlockBytes ||
      options.block_bytes % format::kBlockBytes != 0) {
    return {Code::invalid_argument, "I/O block of " + std::to_string(options.block_bytes) + " bytes is not a multiple of " +
                                        std::to_string(format::kBlockBytes) + " up to " + std::to_string(kMaxBlockBytes)};
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<IoEngine>> make_io_engine(const IoEngineOptions& options, std::string* why_fallback) {
  STRATA_RETURN_IF_ERROR(check(options));
  if (options.kind == IoEngineOptions::Kind::threads) return make_thread_engine(options);
  auto uring = make_uring_engine(options);
  if (uring.ok() || options.kind == IoEngineOptions::Kind::io_uring) return uring;
  if (why_fallback != nullptr) *why_fallback = uring.status().message() + "; using pread/pwrite threads instead";
  return make_thread_engine(options);
}

}  // namespace strata
