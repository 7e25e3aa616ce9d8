#include "trainer/agree.h"

#include <algorithm>
#include <chrono>
#include <future>

namespace strata {

Status agree(Communicator& comm, const Status& mine, const char* what, const std::string& part,
             std::vector<std::string>* parts) {
  std::string blob(1, static_cast<char>(mine.code()));
  blob += mine.ok() ? part : mine.message();
  STRATA_ASSIGN_OR_RETURN(const auto all, comm.gather_all(std::as_bytes(std::span(blob)), what));
  std::vector<Status> ranks;
  for (const std::vector<std::byte>& bytes : all)
    ranks.emplace_back(static_cast<Code>(bytes[0]),
                       std::string(reinterpret_cast<const char*>(bytes.data()) + 1, bytes.size() - 1));
  const auto same = [&](const Status& s) { return s.code() == ranks[0].code() && s.message() == ranks[0].message(); };
  const bool alike = std::all_of(ranks.begin(), ranks.end(), same);
  if (alike && mine.is_on_every_rank()) return mine;  // agreed before, and says whose it is
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r].ok()) {
      if (ranks.size() == 1 || ranks[r].code() == Code::invalid_config) return ranks[r].on_every_rank();
      return Status(ranks[r].code(), (alike ? "every rank: " : "rank " + std::to_string(r) + ": ") + ranks[r].message())
          .on_every_rank();
    }
    if (parts != nullptr) parts->push_back(ranks[r].message());
  }
  return {};
}

Status agree_on_leader(Communicator& comm, const std::function<Status()>& work, const char* what) {
  constexpr std::chrono::milliseconds kBeat(200);
  const auto guarded = [&work]() -> Status {
    try {
      return work();
    } catch (const StatusError& error) {
      return error.status();
    } catch (const std::exception& error) {
      return {Code::internal, error.what()};
    }
  };
  std::future<Status> running;
  if (comm.rank().v == 0) running = std::async(std::launch::async, guarded);
  while (true) {
    const bool done = running.valid() && running.wait_for(kBeat) == std::future_status::ready;
    std::vector<std::string> parts;
    STRATA_RETURN_IF_ERROR(agree(comm, {}, what, done ? "done" : "", &parts));
    if (!parts[0].empty()) break;
  }
  return agree(comm, running.valid() ? running.get() : Status(), what);
}

}  // namespace strata
