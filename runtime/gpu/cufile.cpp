#include "runtime/gpu/cufile.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <future>
#include <system_error>
#include <thread>
#include <utility>

namespace strata {
namespace cufile {
namespace {

constexpr auto kNames = std::to_array<std::pair<int, const char*>>({
    {0, "CU_FILE_SUCCESS"},
    {5001, "CU_FILE_DRIVER_NOT_INITIALIZED"},
    {5002, "CU_FILE_DRIVER_INVALID_PROPS"},
    {5003, "CU_FILE_DRIVER_UNSUPPORTED_LIMIT"},
    {5004, "CU_FILE_DRIVER_VERSION_MISMATCH"},
    {5005, "CU_FILE_DRIVER_VERSION_READ_ERROR"},
    {5006, "CU_FILE_DRIVER_CLOSING"},
    {5007, "CU_FILE_PLATFORM_NOT_SUPPORTED"},
    {5008, "CU_FILE_IO_NOT_SUPPORTED"},
    {5009, "CU_FILE_DEVICE_NOT_SUPPORTED"},
    {5010, "CU_FILE_NVFS_DRIVER_ERROR"},
    {5011, "CU_FILE_CUDA_DRIVER_ERROR"},
    {5012, "CU_FILE_CUDA_POINTER_INVALID"},
    {5013, "CU_FILE_CUDA_MEMORY_TYPE_INVALID"},
    {5014, "CU_FILE_CUDA_POINTER_RANGE_ERROR"},
    {5015, "CU_FILE_CUDA_CONTEXT_MISMATCH"},
    {5016, "CU_FILE_INVALID_MAPPING_SIZE"},
    {5017, "CU_FILE_INVALID_MAPPING_RANGE"},
    {5018, "CU_FILE_INVALID_FILE_TYPE"},
    {5019, "CU_FILE_INVALID_FILE_OPEN_FLAG"},
    {5020, "CU_FILE_DIO_NOT_SET"},
    {5022, "CU_FILE_INVALID_VALUE"},
    {5023, "CU_FILE_MEMORY_ALREADY_REGISTERED"},
    {5024, "CU_FILE_MEMORY_NOT_REGISTERED"},
    {5025, "CU_FILE_PERMISSION_DENIED"},
    {5026, "CU_FILE_DRIVER_ALREADY_OPEN"},
    {5027, "CU_FILE_HANDLE_NOT_REGISTERED"},
    {5028, "CU_FILE_HANDLE_ALREADY_REGISTERED"},
    {5029, "CU_FILE_DEVICE_NOT_FOUND"},
    {5030, "CU_FILE_INTERNAL_ERROR"},
    {5031, "CU_FILE_GETNEWFD_FAILED"},
    {5033, "CU_FILE_NVFS_SETUP_ERROR"},
    {5034, "CU_FILE_IO_DISABLED"},
    {5035, "CU_FILE_BATCH_SUBMIT_FAILED"},
    {5036, "CU_FILE_GPU_MEMORY_PINNING_FAILED"},
    {5037, "CU_FILE_BATCH_FULL"},
    {5038, "CU_FILE_ASYNC_NOT_SUPPORTED"},
    {5039, "CU_FILE_INTERNAL_BATCH_SETUP_ERROR"},
    {5040, "CU_FILE_INTERNAL_BATCH_SUBMIT_ERROR"},
    {5041, "CU_FILE_INTERNAL_BATCH_GETSTATUS_ERROR"},
    {5042, "CU_FILE_INTERNAL_BATCH_CANCEL_ERROR"},
    {5043, "CU_FILE_NOMEM_ERROR"},
    {5044, "CU_FILE_IO_ERROR"},
    {5045, "CU_FILE_INTERNAL_BUF_REGISTER_ERROR"},
    {5046, "CU_FILE_HASH_OPR_ERROR"},
    {5047, "CU_FILE_INVALID_CONTEXT_ERROR"},
    {5048, "CU_FILE_NVFS_INTERNAL_DRIVER_ERROR"},
    {5049, "CU_FILE_BATCH_NOCOMPAT_ERROR"},
    {5050, "CU_FILE_IO_MAX_ERROR"},
});

}  // namespace

const char* name_of(int code) {
  for (const auto& [known, name] : kNames)
    if (known == code) return name;
  return "an error that Strata does not know";
}

}  // namespace cufile

namespace {

Result<cufile::Functions> find_functions(const SharedLibrary& library) {
  cufile::Functions f;
  STRATA_RETURN_IF_ERROR(library.find("cuFileDriverOpen", f.driver_open));
  STRATA_RETURN_IF_ERROR(library.find("cuFileDriverClose_v2", f.driver_close));
  STRATA_RETURN_IF_ERROR(library.find("cuFileDriverGetProperties", f.driver_properties));
  STRATA_RETURN_IF_ERROR(library.find("cuFileHandleRegister", f.handle_register));
  STRATA_RETURN_IF_ERROR(library.find("cuFileHandleDeregister", f.handle_deregister));
  STRATA_RETURN_IF_ERROR(library.find("cuFileBufRegister", f.buffer_register));
  STRATA_RETURN_IF_ERROR(library.find("cuFileBufDeregister", f.buffer_deregister));
  STRATA_RETURN_IF_ERROR(library.find("cuFileRead", f.read));
  STRATA_RETURN_IF_ERROR(library.find("cuFileWrite", f.write));
  return f;
}

void log(cufile::Error error, const char* call) {
  if (error.code != cufile::kSuccess) std::fprintf(stderr, "%s: %s\n", call, CuFile::describe(error).c_str());
}

// -1 is an errno; what is below is a code of cuFile already.
std::int64_t result_of(ssize_t moved) { return moved == -1 ? -errno : moved; }

}  // namespace

std::string CuFile::describe(cufile::Error error) {
  std::string text = std::string(cufile::name_of(error.code)) + " (" + std::to_string(error.code) + ")";
  if (error.code == cufile::kCudaDriverError) text += ", CUDA's code is " + std::to_string(error.cuda_code);
  return text;
}

Result<std::shared_ptr<CuFile>> CuFile::open(const std::string& library, std::function<Status()> prepare,
                                             std::chrono::milliseconds timeout) {
  STRATA_ASSIGN_OR_RETURN(SharedLibrary loaded, SharedLibrary::open(library, "GPUDirect Storage (libcufile, nvidia-cufile)"));
  STRATA_ASSIGN_OR_RETURN(const cufile::Functions functions, find_functions(loaded));
  std::shared_ptr<CuFile> file(new CuFile(std::move(loaded), functions));
  STRATA_RETURN_IF_ERROR(file->start(library, std::move(prepare), timeout));
  return file;
}

Status CuFile::start(const std::string& name, std::function<Status()> prepare, std::chrono::milliseconds timeout) {
  std::packaged_task<Result<cufile::Error>()> task(
      [prepare = std::move(prepare), driver_open = f_.driver_open]() -> Result<cufile::Error> {
        if (prepare) STRATA_RETURN_IF_ERROR(prepare());
        return driver_open();
      });
  std::future<Result<cufile::Error>> answer = task.get_future();
  try {
    std::thread(std::move(task)).detach();
  } catch (const std::system_error& refused) {
    return {Code::out_of_budget, name + ": no thread to open its driver: " + refused.code().message()};
  }
  if (answer.wait_for(timeout) != std::future_status::ready)
    return {Code::unsupported, name + ": cuFileDriverOpen has not returned for " + std::to_string(timeout.count()) +
                                   " ms; see cufile.log, and what cufile.json says of the topology"};
  STRATA_ASSIGN_OR_RETURN(const cufile::Error error, answer.get());
  // Somebody else of this process, another rank, may have opened it and then closes it.
  if (error.code != cufile::kSuccess && error.code != cufile::kDriverAlreadyOpen)
    return {Code::unsupported,
            name + ": cuFileDriverOpen: " + describe(error) + "; see cufile.log and `gdscheck -p` of GPUDirect Storage"};
  opened_ = error.code == cufile::kSuccess;
  cufile::Properties properties = {};
  if (const cufile::Error asked = f_.driver_properties(&properties); asked.code != cufile::kSuccess)
    return {Code::unsupported, name + ": cuFileDriverGetProperties: " + describe(asked)};
  const bool direct = (properties.driver.status_flags & cufile::kSupportsNvme) != 0 ||
                      (properties.feature_flags & cufile::kSupportsPeerToPeer) != 0;
  if (!direct) {
    through_host_ = name +
                    ": neither nvidia-fs nor PCI P2PDMA serves NVMe here, so what is called direct goes through host memory "
                    "(compatibility mode): the same bits, without the gain";
  } else if ((properties.driver.control_flags & cufile::kAllowsCompatibility) != 0) {
    through_host_ = name +
                    ": allow_compat_mode is on in cufile.json, so where a drive cannot reach the GPU its transfers go through "
                    "host memory and nobody hears of it: the same bits, without the gain";
  }
  return {};
}

CuFile::~CuFile() {
  if (opened_) log(f_.driver_close(), "cuFileDriverClose");
}

Result<cufile::Handle> CuFile::register_file(int fd, const std::string& path) {
  cufile::Handle handle = nullptr;
  cufile::Description description;
  description.file.fd = fd;
  if (const cufile::Error error = f_.handle_register(&handle, &description); error.code != cufile::kSuccess)
    return Status(Code::unsupported, path + ": cuFileHandleRegister: " + describe(error));
  return handle;
}

void CuFile::deregister_file(cufile::Handle handle) { f_.handle_deregister(handle); }

Status CuFile::register_buffer(const std::byte* begin, std::size_t bytes) {
  const cufile::Error error = f_.buffer_register(begin, bytes, 0);
  if (error.code == cufile::kSuccess) return {};
  return {Code::unsupported, "cuFileBufRegister of " + std::to_string(bytes) + " bytes: " + describe(error)};
}

void CuFile::deregister_buffer(const std::byte* begin) { log(f_.buffer_deregister(begin), "cuFileBufDeregister"); }

std::int64_t CuFile::read(cufile::Handle handle, std::byte* begin, std::size_t bytes, std::uint64_t at,
                          std::size_t offset) const {
  return result_of(f_.read(handle, begin, bytes, static_cast<off_t>(at), static_cast<off_t>(offset)));
}

std::int64_t CuFile::write(cufile::Handle handle, const std::byte* begin, std::size_t bytes, std::uint64_t at,
                           std::size_t offset) const {
  return result_of(f_.write(handle, begin, bytes, static_cast<off_t>(at), static_cast<off_t>(offset)));
}

}  // namespace strata
