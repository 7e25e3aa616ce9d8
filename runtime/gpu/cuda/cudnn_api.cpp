#include "runtime/gpu/cuda/cudnn_api.h"

#if STRATA_HAS_CUDNN

#include <array>

namespace strata {
namespace {

// Older ones had other rules for masks and determinism; the plans of this one were looked at.
constexpr std::size_t kOldest = 91900;

}  // namespace

Result<std::shared_ptr<const CudnnApi>> CudnnApi::load() {
  STRATA_ASSIGN_OR_RETURN(SharedLibrary library, SharedLibrary::open("libcudnn.so.9", "cuDNN 9 for CUDA 13"));
  auto api = std::make_shared<CudnnApi>(library);
  STRATA_RETURN_IF_ERROR(library.find("cudnnGetVersion", api->version));
  STRATA_RETURN_IF_ERROR(library.find("cudnnGetErrorString", api->error_string));
  STRATA_RETURN_IF_ERROR(library.find("cudnnGetLastErrorString", api->last_error_string));
  STRATA_RETURN_IF_ERROR(library.find("cudnnCreate", api->create));
  STRATA_RETURN_IF_ERROR(library.find("cudnnDestroy", api->destroy));
  STRATA_RETURN_IF_ERROR(library.find("cudnnSetStream", api->set_stream));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendCreateDescriptor", api->create_descriptor));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendDestroyDescriptor", api->destroy_descriptor));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendFinalize", api->finalize));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendSetAttribute", api->set_attribute));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendGetAttribute", api->get_attribute));
  STRATA_RETURN_IF_ERROR(library.find("cudnnBackendExecute", api->execute));
  if (const std::size_t version = api->version(); version < kOldest)
    return Status(Code::unsupported, "libcudnn.so.9 is version " + std::to_string(version / 10000) + "." +
                                         std::to_string(version / 100 % 100) + "; 9.19 is the oldest that works");
  return std::shared_ptr<const CudnnApi>(std::move(api));
}

Status CudnnApi::checked(cudnnStatus_t status, const std::string& what) const {
  if (status == CUDNN_STATUS_SUCCESS) return {};
  std::array<char, 512> text{};
  last_error_string(text.data(), text.size());
  // NOT_SUPPORTED is the 3000s.
  const bool refused = CUDNN_STATUS_CATEGORY(static_cast<int>(status)) == static_cast<int>(CUDNN_STATUS_NOT_SUPPORTED);
  return {refused ? Code::unsupported : Code::internal,
          "cuDNN: " + what + ": " + error_string(status) + (text[0] != '\0' ? ", " + std::string(text.data()) : "")};
}

CudnnDescriptor::CudnnDescriptor(std::shared_ptr<const CudnnApi> api, cudnnBackendDescriptorType_t type)
    : api_(std::move(api)), type_(type) {
  status_ = api_->checked(api_->create_descriptor(type, &raw_), "making descriptor " + std::to_string(type));
}

CudnnDescriptor::CudnnDescriptor(CudnnDescriptor&& other) noexcept
    : api_(std::move(other.api_)),
      type_(other.type_),
      raw_(std::exchange(other.raw_, nullptr)),
      status_(std::move(other.status_)) {}

CudnnDescriptor& CudnnDescriptor::operator=(CudnnDescriptor&& other) noexcept {
  std::swap(api_, other.api_);
  std::swap(type_, other.type_);
  std::swap(raw_, other.raw_);
  std::swap(status_, other.status_);
  return *this;
}

CudnnDescriptor::~CudnnDescriptor() {
  if (raw_ != nullptr) api_->destroy_descriptor(raw_);
}

Status CudnnDescriptor::finalize() {
  if (status_.ok()) status_ = api_->checked(api_->finalize(raw_), "finalizing descriptor " + std::to_string(type_));
  return status_;
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t n,
                          const void* values) {
  if (!status_.ok()) return;
  status_ = api_->checked(api_->set_attribute(raw_, name, type, static_cast<std::int64_t>(n), values),
                          "setting attribute " + std::to_string(name));
}

Result<std::size_t> CudnnDescriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t n,
                                         void* values) const {
  std::int64_t count = 0;
  STRATA_RETURN_IF_ERROR(
      api_->checked(api_->get_attribute(raw_, name, type, static_cast<std::int64_t>(n), &count, n == 0 ? nullptr : values),
                    "reading attribute " + std::to_string(name)));
  return static_cast<std::size_t>(count);
}

}  // namespace strata

#endif
