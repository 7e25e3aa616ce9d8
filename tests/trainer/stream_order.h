// Which operations of a training are ordered, and which may run beside each other: by what their streams wait for, not by what
// happened to be faster. A vector clock for each stream and each thread that enqueues (Lamport's happens-before).
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/transformer.h"
#include "runtime/stream.h"

namespace strata {

// Of one rank's device. Thread-safe.
class StreamOrder final : public StreamObserver {
 public:
  using Clock = std::map<std::string, std::size_t>;  // of each stream, how many of its operations are complete
  struct Operation {
    std::string stream, name;
    std::string part;        // of the model that enqueued it: "forward 0"; empty: none did
    int step = 0;            // in which it was enqueued
    std::size_t number = 0;  // in its stream, from 1
    Clock before;            // what is complete when it is, with itself
  };

  void enqueued(const Stream& stream, const char* name) override {
    const std::lock_guard lock(mutex_);
    Clock& clock = clock_of(stream);
    const std::size_t number = ++clock[stream.name()];
    operations_.push_back({stream.name(), name, part_, step_, number, clock});
  }
  std::uint64_t recorded(const Stream& stream) override {
    const std::lock_guard lock(mutex_);
    events_.push_back(clock_of(stream));
    return events_.size();
  }
  void waits(const Stream& stream, std::uint64_t event) override {
    const std::lock_guard lock(mutex_);
    join(clock_of(stream), events_[event - 1]);
  }
  void waited(std::uint64_t event) override {
    const std::lock_guard lock(mutex_);
    join(threads_[std::this_thread::get_id()], events_[event - 1]);
  }

  void begin_step() {
    const std::lock_guard lock(mutex_);
    ++step_;
  }
  void set_part(std::string part) {
    const std::lock_guard lock(mutex_);
    part_ = std::move(part);
  }
  // In the order in which they were enqueued.
  std::vector<Operation> operations() const {
    const std::lock_guard lock(mutex_);
    return operations_;
  }

 private:
  static void join(Clock& clock, const Clock& other) {
    for (const auto& [stream, number] : other) clock[stream] = std::max(clock[stream], number);
  }
  // What a stream is given waits for what the thread that gives it has waited for.
  Clock& clock_of(const Stream& stream) {
    Clock& clock = streams_[stream.name()];
    join(clock, threads_[std::this_thread::get_id()]);
    return clock;
  }

  mutable std::mutex mutex_;
  std::map<std::string, Clock> streams_;
  std::map<std::thread::id, Clock> threads_;
  std::vector<Clock> events_;
  std::vector<Operation> operations_;
  std::string part_;
  int step_ = 0;
};

inline bool is_before(const StreamOrder::Operation& a, const StreamOrder::Operation& b) {
  const auto found = b.before.find(a.stream);
  return found != b.before.end() && found->second >= a.number && !(a.stream == b.stream && a.number == b.number);
}

// Tells a StreamOrder what a unit enqueues; everything else is the unit's own.
template <class Base>
class ObservedUnit : public Base {
 public:
  ObservedUnit(std::shared_ptr<const Model> model, int u, StreamOrder& order)
      : order_(order), number_(std::to_string(u)), model_(std::move(model)), unit_(model_->unit(u)) {}
  std::string name() const override { return unit_.name(); }
  std::vector<ParamSpec> params() const override { return unit_.params(); }
  std::vector<SharedParam> shared() const override { return unit_.shared(); }
  void prepare(StreamRef stream, TierArena& arena, std::int64_t T) override {
    if (stream.backend() != Backend::dry) stream.device().observe(order_);  // a plan is made of the same units
    unit_.prepare(stream, arena, T);
  }

 protected:
  template <class Call>
  auto in_part(const char* what, const UnitContext& ctx, const Call& call) const {
    if (ctx.stream.backend() == Backend::dry) return call();
    order_.set_part(what + number_);
    auto result = call();
    order_.set_part("");
    return result;
  }
  const Model& model() const { return *model_; }
  StreamOrder& order_;
  const std::string number_;

 private:
  const std::shared_ptr<const Model> model_;
  Unit& unit_;
};

class ObservedBody final : public ObservedUnit<BodyUnit> {
 public:
  ObservedBody(std::shared_ptr<const Model> model, int u, StreamOrder& order)
      : ObservedUnit(std::move(model), u, order), body_(*this->model().body()[static_cast<std::size_t>(u)]) {}
  Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) override {
    return in_part("forward ", ctx, [&] { return body_.forward(ctx, x, saved); });
  }
  Tensor backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) override {
    return in_part("backward ", ctx, [&] { return body_.backward(ctx, x, std::move(dy), std::move(saved)); });
  }

 private:
  BodyUnit& body_;
};

class ObservedHead final : public ObservedUnit<LossUnit> {
 public:
  ObservedHead(std::shared_ptr<const Model> model, int u, StreamOrder& order)
      : ObservedUnit(std::move(model), u, order), head_(this->model().head()) {}
  void loss(const UnitContext& ctx, const Tensor& x, TensorRef loss_R) override { head_.loss(ctx, x, loss_R); }
  Tensor loss_and_backward(const UnitContext& ctx, const Tensor& x, TensorRef loss_R, float scale) override {
    return in_part("head ", ctx, [&] { return head_.loss_and_backward(ctx, x, loss_R, scale); });
  }
  Tensor logits(const UnitContext& ctx, TensorRef x_rows) override { return head_.logits(ctx, x_rows); }

 private:
  LossUnit& head_;
};

// order outlives the model and every device that the model runs on.
inline std::unique_ptr<Model> observed(std::unique_ptr<Model> inner, StreamOrder& order) {
  const std::shared_ptr<const Model> model = std::move(inner);
  std::vector<std::unique_ptr<BodyUnit>> body;
  const int head = model->unit_count() - 1;
  for (int u = 0; u < head; ++u) body.push_back(std::make_unique<ObservedBody>(model, u, order));
  return std::make_unique<Model>(std::move(body), std::make_unique<ObservedHead>(model, head, order), model->vocab_size(),
                                 model->max_tokens());
}

}  // namespace strata
