#include "tests/fake_cuda/fake_stream.h"

#include "tests/emulator/block.h"
#include "tests/emulator/global_faults.h"
#include "tests/fake_cuda/fake_state.h"

namespace strata::fake_cuda {

void Point::reach() {
  {
    const std::lock_guard lock(mutex_);
    time_ = std::chrono::steady_clock::now();
    reached_ = true;
  }
  changed_.notify_all();
}
bool Point::is_reached() const {
  const std::lock_guard lock(mutex_);
  return reached_;
}
void Point::wait() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reached_; });
}

// What only the worker's thread uses.
class Stream::Kernels {
 public:
  Status run(const gpu_emulated::Launch& launch) { return block_.run(launch); }

 private:
  gpu_emulated::GlobalFaults faults_;
  gpu_emulated::Block block_{State::instance().device_memory};
};

Stream::Stream(int device) : device_(device), thread_([this] { work(); }) {}

Stream::~Stream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Stream::push(std::function<void()> operation) {
  {
    const std::lock_guard lock(mutex_);
    operations_.push_back(std::move(operation));
  }
  wake_.notify_one();
}

void Stream::synchronize() {
  const auto point = std::make_shared<Point>();
  push([point] { point->reach(); });
  point->wait();
}

void Stream::work() {
  const auto kernels = std::make_unique<Kernels>();
  kernels_ = kernels.get();
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || !operations_.empty(); });
    if (operations_.empty()) return;
    std::function<void()> operation = std::move(operations_.front());
    operations_.pop_front();
    lock.unlock();
    operation();
    operation = nullptr;
    lock.lock();
  }
}

void Stream::launch(gpu_emulated::Launch launch) {
  push([this, launch = std::move(launch)] {
    State& state = State::instance();
    if (state.is_lost()) return;
    if (const Status status = kernels_->run(launch); !status.ok()) state.kernel_went_wrong(status.message());
  });
}

}  // namespace strata::fake_cuda
