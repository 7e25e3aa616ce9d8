#include "runtime/status.h"

#include <cerrno>
#include <system_error>

namespace strata {

const char* to_string(Code code) {
  switch (code) {
    case Code::ok: return "ok";
    case Code::invalid_config: return "invalid configuration";
    case Code::invalid_argument: return "invalid argument";
    case Code::not_found: return "not found";
    case Code::unsupported: return "unsupported";
    case Code::out_of_budget: return "out of budget";
    case Code::io_error: return "I/O error";
    case Code::corrupt: return "corrupt data";
    case Code::peer_lost: return "peer lost";
    case Code::numerical: return "numerical failure";
    case Code::cancelled: return "cancelled";
    case Code::internal: return "internal error";
  }
  return "unknown";
}

Status Status::from_errno(const std::string& operation, const std::string& where, int error_number) {
  const bool no_room = error_number == ENOSPC || error_number == EDQUOT;
  return {Code::io_error, operation + ": " + where + ": " + std::generic_category().message(error_number) +
                              (no_room ? "; make room there and start again" : "")};
}

Status Status::with_context(const std::string& context) const {
  Status status = *this;
  if (!ok()) status.message_ = context + ": " + message_;
  return status;
}

Status Status::on_every_rank() const {
  Status status = *this;
  status.on_every_rank_ = !ok();
  return status;
}

int exit_code(const Status& status) {
  if (status.ok()) return 0;
  return status.code() == Code::invalid_config ? 2 : 1;
}

void contract_violation(const char* condition, const std::string& why, std::source_location where) {
  throw ContractViolation(std::string(where.file_name()) + ":" + std::to_string(where.line()) + ": " + why +
                          " (violated: " + condition + ")");
}

void throw_if_error(const Status& status) {
  if (!status.ok()) throw StatusError(status);
}

}  // namespace strata
