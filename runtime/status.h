// Expected failures as values. Bad input, a full disk, a lost peer: Status / Result<T>. A broken contract between two
// pieces of our own code: STRATA_CHECK, which throws ContractViolation, also in Release.
#pragma once

#include <optional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace strata {

enum class Code {
  ok,
  invalid_config,    // the user's YAML, flags or their combination; exit code 2
  invalid_argument,  // an API caller's value
  not_found,         // a file or a name that should exist
  unsupported,       // valid, but not something Strata does
  out_of_budget,     // a tier's byte budget would be exceeded
  io_error,          // the operating system refused or shortened an operation
  corrupt,           // bytes came back other than they were written
  peer_lost,         // another rank died or does not answer
  numerical,         // NaN or infinity where training cannot go on
  cancelled,         // skipped because something before it failed
  internal,
};

const char* to_string(Code code);

// The message is complete: what failed, where (file:line, rank, path, offset), what to do.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status ok_status() { return {}; }
  // `operation` failed on `where` with errno `error_number`: "write of 4096 bytes at 8192: /x/y: No space left on device".
  static Status from_errno(const std::string& operation, const std::string& where, int error_number);

  bool ok() const { return code_ == Code::ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // Prefixes the message with what the caller was doing: "context: message".
  Status with_context(const std::string& context) const;
  // Marks an error that every rank of the group has alike (trainer/agree.h), so that one of them may speak for all.
  Status on_every_rank() const;
  bool is_on_every_rank() const { return on_every_rank_; }

 private:
  Code code_ = Code::ok;
  bool on_every_rank_ = false;
  std::string message_;
};

// The process exit code DESIGN.md promises: 0 ok, 2 wrong configuration, 1 anything else.
int exit_code(const Status& status);

// Carries a Status through code that cannot return one (constructors, destructors of third parties, main).
class StatusError : public std::runtime_error {
 public:
  explicit StatusError(Status status) : std::runtime_error(status.message()), status_(std::move(status)) {}
  const Status& status() const { return status_; }

 private:
  Status status_;
};

class ContractViolation : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void contract_violation(const char* condition, const std::string& why, std::source_location where);

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit by design
    if (status_.ok())
      contract_violation("!status.ok()", "a Result without a value needs an error", std::source_location::current());
  }
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    require();
    return *value_;
  }
  const T& value() const& {
    require();
    return *value_;
  }
  T&& value() && {
    require();
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void require() const {
    if (!value_) throw StatusError(status_);
  }
  std::optional<T> value_;
  Status status_;
};

// Throws StatusError when `status` is an error.
void throw_if_error(const Status& status);

}  // namespace strata

#define STRATA_CHECK(condition, why)                                                    \
  do {                                                                                  \
    if (!(condition)) [[unlikely]]                                                      \
      ::strata::contract_violation(#condition, (why), std::source_location::current()); \
  } while (false)

#define STRATA_RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                               \
    if (::strata::Status strata_status_ = (expression); !strata_status_.ok()) return strata_status_; \
  } while (false)

#define STRATA_CONCAT_INNER_(a, b) a##b
#define STRATA_CONCAT_(a, b) STRATA_CONCAT_INNER_(a, b)
#define STRATA_ASSIGN_OR_RETURN(declaration, expression)                                                        \
  auto STRATA_CONCAT_(strata_result_, __LINE__) = (expression);                                                 \
  if (!STRATA_CONCAT_(strata_result_, __LINE__).ok()) return STRATA_CONCAT_(strata_result_, __LINE__).status(); \
  declaration = std::move(STRATA_CONCAT_(strata_result_, __LINE__)).value()
