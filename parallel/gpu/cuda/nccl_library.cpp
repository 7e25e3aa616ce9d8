// NCCL by dlopen. Every communicator is non-blocking: no call waits for a peer that may never come.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <utility>

#include "parallel/nccl_api.h"
#include "runtime/shared_library.h"

namespace strata {

namespace {

constexpr int kOldestVersion = NCCL_VERSION(2, 18, 0);  // older ones lose errors of non-blocking communicators

// What we call of the library.
struct Functions {
  decltype(ncclGetVersion)* get_version = nullptr;
  decltype(ncclGetUniqueId)* get_unique_id = nullptr;
  decltype(ncclGetErrorString)* get_error_string = nullptr;
  decltype(ncclGetLastError)* get_last_error = nullptr;
  decltype(ncclCommInitRankConfig)* comm_init_rank_config = nullptr;
  decltype(ncclCommGetAsyncError)* comm_get_async_error = nullptr;
  decltype(ncclCommFinalize)* comm_finalize = nullptr;
  decltype(ncclCommDestroy)* comm_destroy = nullptr;
  decltype(ncclCommAbort)* comm_abort = nullptr;
  decltype(ncclAllGather)* all_gather = nullptr;
  decltype(ncclBroadcast)* broadcast = nullptr;
  decltype(ncclSend)* send = nullptr;
  decltype(ncclRecv)* recv = nullptr;
  decltype(ncclGroupStart)* group_start = nullptr;
  decltype(ncclGroupEnd)* group_end = nullptr;

  static Result<Functions> find(const SharedLibrary& library) {
    Functions f;
    STRATA_RETURN_IF_ERROR(library.find("ncclGetVersion", f.get_version));
    STRATA_RETURN_IF_ERROR(library.find("ncclGetUniqueId", f.get_unique_id));
    STRATA_RETURN_IF_ERROR(library.find("ncclGetErrorString", f.get_error_string));
    STRATA_RETURN_IF_ERROR(library.find("ncclGetLastError", f.get_last_error));
    STRATA_RETURN_IF_ERROR(library.find("ncclCommInitRankConfig", f.comm_init_rank_config));
    STRATA_RETURN_IF_ERROR(library.find("ncclCommGetAsyncError", f.comm_get_async_error));
    STRATA_RETURN_IF_ERROR(library.find("ncclCommFinalize", f.comm_finalize));
    STRATA_RETURN_IF_ERROR(library.find("ncclCommDestroy", f.comm_destroy));
    STRATA_RETURN_IF_ERROR(library.find("ncclCommAbort", f.comm_abort));
    STRATA_RETURN_IF_ERROR(library.find("ncclAllGather", f.all_gather));
    STRATA_RETURN_IF_ERROR(library.find("ncclBroadcast", f.broadcast));
    STRATA_RETURN_IF_ERROR(library.find("ncclSend", f.send));
    STRATA_RETURN_IF_ERROR(library.find("ncclRecv", f.recv));
    STRATA_RETURN_IF_ERROR(library.find("ncclGroupStart", f.group_start));
    STRATA_RETURN_IF_ERROR(library.find("ncclGroupEnd", f.group_end));
    return f;
  }
};

std::string version_text(int code) {
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
}

// ok for "in progress" too: poll() has the rest. comm: null where the call has none.
Status to_status(const Functions& f, ncclResult_t result, const char* call, ncclComm_t comm) {
  if (result == ncclSuccess || result == ncclInProgress) return {};
  std::string message = std::string(call) + ": " + f.get_error_string(result);
  const char* const detail = f.get_last_error(comm);
  if (detail != nullptr && *detail != '\0') message += std::string(" (") + detail + ")";
  const Code code = result == ncclRemoteError ? Code::peer_lost : Code::internal;
  return {code, message + "; NCCL_DEBUG=WARN prints more"};
}

class LibraryComm final : public NcclComm {
 public:
  explicit LibraryComm(const Functions& f) : f_(f) {}
  ~LibraryComm() override {
    if (comm_ == nullptr) return;
    if (finalized_)
      log(f_.comm_destroy(comm_), "ncclCommDestroy");
    else
      log(f_.comm_abort(comm_), "ncclCommAbort");
  }

  Status init(const NcclId& id, Rank rank, WorldSize size) {
    ncclUniqueId unique;
    static_assert(sizeof(unique) == sizeof(id.bytes));
    std::memcpy(&unique, id.bytes.data(), sizeof(unique));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return to_status(f_, f_.comm_init_rank_config(&comm_, size.v, unique, rank.v, &config), "ncclCommInitRankConfig", nullptr);
  }

  Result<State> poll() override {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return State::in_progress;  // another thread is inside a call
    if (comm_ == nullptr) return aborted();
    ncclResult_t state = ncclSuccess;
    STRATA_RETURN_IF_ERROR(to_status(f_, f_.comm_get_async_error(comm_, &state), "ncclCommGetAsyncError", comm_));
    STRATA_RETURN_IF_ERROR(to_status(f_, state, "NCCL", comm_));
    return state == ncclInProgress ? State::in_progress : State::ready;
  }

  Status all_gather(const void* mine, void* all, std::size_t bytes, GpuQueue& queue) override {
    return group("ncclAllGather", [&](ncclComm_t comm) {
      return f_.all_gather(mine, all, bytes, ncclUint8, comm, static_cast<cudaStream_t>(queue.native()));
    });
  }

  Status broadcast(std::span<const Broadcast> broadcasts, GpuQueue& queue) override {
    return group("ncclBroadcast", [&](ncclComm_t comm) {
      ncclResult_t first = ncclSuccess;
      for (const Broadcast& b : broadcasts)
        keep_first(&first,
                   f_.broadcast(b.from, b.to, b.bytes, ncclUint8, b.root, comm, static_cast<cudaStream_t>(queue.native())));
      return first;
    });
  }

  Status exchange(std::span<const Send> sends, std::span<const Receive> receives, GpuQueue& queue) override {
    return group("ncclSend and ncclRecv", [&](ncclComm_t comm) {
      const auto stream = static_cast<cudaStream_t>(queue.native());
      ncclResult_t first = ncclSuccess;
      for (const Send& s : sends) keep_first(&first, f_.send(s.from, s.bytes, ncclUint8, s.to, comm, stream));
      for (const Receive& r : receives) keep_first(&first, f_.recv(r.to, r.bytes, ncclUint8, r.from, comm, stream));
      return first;
    });
  }

  Status finalize() override {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr) return aborted();
    finalized_ = true;
    return to_status(f_, f_.comm_finalize(comm_), "ncclCommFinalize", comm_);
  }

  // NCCL frees the communicator, so no call may be inside it. One that stays there waits for the GPU, most likely because that
  // takes no more launches before this communicator's own kernel ends: then only an abort under its feet ends it.
  void abort() override {
    aborted_ = true;
    const std::unique_lock lock(mutex_, kAbortGrace);
    log(f_.comm_abort(std::exchange(comm_, nullptr)), "ncclCommAbort");
  }

 private:
  static constexpr std::chrono::seconds kAbortGrace{2};

  static void keep_first(ncclResult_t* first, ncclResult_t result) {
    if (*first == ncclSuccess && result != ncclInProgress) *first = result;
  }
  // The communicator is gone, whatever NCCL says.
  void log(ncclResult_t result, const char* call) const {
    if (const Status status = to_status(f_, result, call, nullptr); !status.ok())
      std::fprintf(stderr, "%s\n", status.message().c_str());
  }
  static Status aborted() { return {Code::cancelled, "this NCCL communicator was aborted"}; }

  template <class Issue>
  Status group(const char* call, const Issue& issue) {
    const std::lock_guard lock(mutex_);
    const ncclComm_t comm = comm_;
    if (comm == nullptr) return aborted();
    STRATA_RETURN_IF_ERROR(to_status(f_, f_.group_start(), "ncclGroupStart", comm));
    ncclResult_t result = issue(comm);
    keep_first(&result, f_.group_end());
    if (aborted_) return aborted();
    return to_status(f_, result, call, comm);
  }

  const Functions& f_;
  std::timed_mutex mutex_;  // of comm_
  ncclComm_t comm_ = nullptr;
  bool finalized_ = false;
  std::atomic<bool> aborted_{false};
};

class Library final : public NcclApi {
 public:
  Library(SharedLibrary library, const Functions& f, int version) : library_(std::move(library)), f_(f), version_(version) {}

  std::string version() const override { return version_text(version_); }

  Result<NcclId> make_id() override {
    ncclUniqueId unique;
    STRATA_RETURN_IF_ERROR(to_status(f_, f_.get_unique_id(&unique), "ncclGetUniqueId", nullptr));
    NcclId id;
    std::memcpy(id.bytes.data(), &unique, sizeof(unique));
    return id;
  }

  Result<std::unique_ptr<NcclComm>> join(const NcclId& id, Rank rank, WorldSize size, GpuDriver& gpu) override {
    // NCCL takes the calling thread's device for the communicator's.
    const int ordinal = gpu.properties().ordinal;
    if (const cudaError_t error = ::cudaSetDevice(ordinal); error != cudaSuccess)
      return Status(Code::internal, "cudaSetDevice(" + std::to_string(ordinal) + "): " + ::cudaGetErrorString(error));
    auto comm = std::make_unique<LibraryComm>(f_);
    STRATA_RETURN_IF_ERROR(comm->init(id, rank, size));
    return std::unique_ptr<NcclComm>(std::move(comm));
  }

 private:
  SharedLibrary library_;
  const Functions f_;
  int version_;
};

}  // namespace

Result<std::shared_ptr<NcclApi>> load_nccl() {
  STRATA_ASSIGN_OR_RETURN(SharedLibrary library, SharedLibrary::open("libnccl.so.2", "NCCL 2.18 or newer"));
  STRATA_ASSIGN_OR_RETURN(const Functions functions, Functions::find(library));
  int version = 0;
  STRATA_RETURN_IF_ERROR(to_status(functions, functions.get_version(&version), "ncclGetVersion", nullptr));
  if (version < kOldestVersion)
    return Status(Code::unsupported,
                  "NCCL is version " + version_text(version) + "; " + version_text(kOldestVersion) + " or newer is needed");
  return std::shared_ptr<NcclApi>(std::make_shared<Library>(std::move(library), functions, version));
}

}  // namespace strata
