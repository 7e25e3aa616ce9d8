// An IoEngine that goes wrong on command: for tests of everything above it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "nvme/io_engine.h"
#include "nvme/transfer.h"

namespace strata {

struct Fault {
  enum class Kind {
    fail,      // ends with `error` and moves nothing
    shorten,   // moves the first half; the engine must go on by itself
    truncate,  // moves nothing and says so, as at the end of a file
    corrupt,   // flips one bit on the way
    lose,      // says that it wrote and did not; a read moves nothing
    delay,     // takes `delay` longer
  } kind = Kind::fail;
  std::uint64_t first = 0;  // index of the first operation it hits, counted since construction or reset()
  std::uint64_t count = 1;  // operations it hits in a row
  int error = 5;            // EIO
  std::chrono::milliseconds delay{0};
};

// Passes blocks one by one to `inner`; each block and each rest of a shortened block is one operation.
class FaultyEngine final : public IoEngine {
 public:
  FaultyEngine(std::unique_ptr<IoEngine> inner, const IoEngineOptions& options);

  void inject(const Fault& fault) { faults_.push_back(fault); }
  // Forgets faults and counts from 0 again.
  void reset();
  std::uint64_t operations() const { return operations_; }

  const char* name() const override { return "faulty"; }
  void register_files(std::span<IoFile* const> files) override { inner_->register_files(files); }
  void register_buffers(std::span<const std::span<std::byte>> buffers) override { inner_->register_buffers(buffers); }
  Status run(std::span<const IoRequest> requests) override;

 private:
  const Fault* next_fault();
  // Moves the transfer, with the fault if there is one; sets `result` as a system call would.
  Status move(const Transfer& transfer, const Fault* fault, std::int64_t* result);

  std::unique_ptr<IoEngine> inner_;
  IoEngineOptions options_;
  std::vector<Fault> faults_;
  std::uint64_t operations_ = 0;
};

}  // namespace strata
