// One rank of a group that does not exist: for a plan's dry run, where nothing is executed. Every other rank is taken to say
// what this one says. Its data plane must only be used with streams of the dry backend.
#pragma once

#include "parallel/communicator.h"

namespace strata {

class DryCommunicator final : public Communicator {
 public:
  DryCommunicator(Rank rank, WorldSize size) : rank_(rank), size_(size) {}
  Rank rank() const override { return rank_; }
  WorldSize size() const override { return size_; }
  Result<std::unique_ptr<Communicator>> duplicate() override {
    return std::unique_ptr<Communicator>(std::make_unique<DryCommunicator>(rank_, size_));
  }
  Status barrier(const char*) override { return {}; }
  Result<std::vector<std::vector<std::byte>>> gather_all(std::span<const std::byte> mine, const char*) override {
    return std::vector<std::vector<std::byte>>(static_cast<std::size_t>(size_.v), {mine.begin(), mine.end()});
  }
  Status broadcast(std::span<std::byte>, Rank, const char*) override { return {}; }
  void abort(const std::string&) override {}

 protected:
  Status do_all_gather(const AllGatherArgs& args) override { return executed(args.what); }
  Status do_reduce_scatter_add(const ReduceScatterArgs& args) override { return executed(args.what); }

 private:
  static Status executed(const char* what) { return {Code::internal, std::string(what) + " executed on a dry communicator"}; }
  Rank rank_;
  WorldSize size_;
};

}  // namespace strata
