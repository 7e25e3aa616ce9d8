#include "trainer/agree.h"

#include <algorithm>

namespace strata {
namespace {

const std::string kRank = "rank ";
const std::string kEveryRank = "every rank: ";

Status prefixed(const Status& status, const std::string& prefix) {
  return {status.code(), status.code() == Code::invalid_config ? status.message() : prefix + status.message()};
}

}  // namespace

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
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r].ok())
      return prefixed(ranks[r], ranks.size() == 1 ? "" : alike ? kEveryRank : kRank + std::to_string(r) + ": ");
    if (parts != nullptr) parts->push_back(ranks[r].message());
  }
  return {};
}

bool is_common(const Status& status) {
  return status.code() == Code::invalid_config || status.code() == Code::numerical || status.message().starts_with(kRank) ||
         status.message().starts_with(kEveryRank);
}

}  // namespace strata
