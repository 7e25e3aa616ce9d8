#include "nvme/faulty_engine.h"

#include <thread>

namespace strata {

FaultyEngine::FaultyEngine(std::unique_ptr<IoEngine> inner, const IoEngineOptions& options)
    : inner_(std::move(inner)), options_(options) {}

void FaultyEngine::reset() {
  faults_.clear();
  operations_ = 0;
}

const Fault* FaultyEngine::next_fault() {
  const std::uint64_t operation = operations_++;
  for (const Fault& fault : faults_) {
    if (operation >= fault.first && operation - fault.first < fault.count) return &fault;
  }
  return nullptr;
}

Status FaultyEngine::move(const Transfer& transfer, const Fault* fault, std::int64_t* result) {
  IoRequest request{transfer.kind, transfer.file, transfer.data, transfer.bytes, transfer.offset};
  *result = static_cast<std::int64_t>(transfer.bytes);
  const auto flip = [&] { request.data[request.bytes / 2] ^= std::byte{0x10}; };
  bool corrupt = false;
  if (fault != nullptr) {
    switch (fault->kind) {
      case Fault::Kind::fail: *result = -fault->error; return {};
      case Fault::Kind::truncate: *result = 0; return {};
      case Fault::Kind::lose: return {};
      case Fault::Kind::shorten:
        request.bytes = transfer.bytes / 2;
        *result = static_cast<std::int64_t>(request.bytes);
        break;
      case Fault::Kind::corrupt: corrupt = true; break;
      case Fault::Kind::delay: std::this_thread::sleep_for(fault->delay); break;
    }
  }
  const bool write = transfer.kind == IoRequest::Kind::write;
  if (corrupt && write) flip();
  Status status = inner_->run({&request, 1});
  if (corrupt) flip();
  return status;
}

Status FaultyEngine::run(std::span<const IoRequest> requests) {
  TransferQueue queue(requests, options_.block_bytes, 1);
  while (Transfer* transfer = queue.next()) {
    std::int64_t result = 0;
    if (const Status status = move(*transfer, next_fault(), &result); !status.ok()) return status;
    if (queue.complete(transfer, result)) TransferQueue::pause();
  }
  return queue.status();
}

}  // namespace strata
