#include "runtime/gpu/cuda/cudnn_attention.h"

#include "runtime/gpu/cuda/cudnn_attention_plans.h"

#if STRATA_HAS_CUDNN

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <span>

#include "runtime/gpu/cuda/cuda_status.h"
#include "runtime/gpu/driver.h"

namespace strata {
namespace {

using Direction = CudnnAttentionPlans::Direction;

template <class Args>
kernels::AttentionShape shape_of(const Args& a) {
  return {.B = a.B, .T = a.T, .N = a.N, .K = a.K, .H = a.H, .scale = a.scale};
}

// One part's tensors: names and addresses.
class Pack {
 public:
  void add(cudnn_tensor::Name id, const void* address) {
    ids_.push_back(id);
    addresses_.push_back(const_cast<void*>(address));
  }
  void add(cudnn_tensor::Name id, const ConstTensorRef& tensor, std::int64_t offset) {
    const std::byte* const address = tensor.data + offset * static_cast<std::int64_t>(size_of(tensor.dtype));
    aligned_ = aligned_ &&
               (id == cudnn_tensor::lse || id == cudnn_tensor::do_dot_o || reinterpret_cast<std::uintptr_t>(address) % 16 == 0);
    add(id, address);
  }
  // lse may begin anywhere: its plans read single words.
  bool is_aligned() const { return aligned_; }
  std::span<const std::int64_t> ids() const { return ids_; }
  std::span<void* const> addresses() const { return addresses_; }

 private:
  std::vector<std::int64_t> ids_;
  std::vector<void*> addresses_;
  bool aligned_ = true;
};

// Where a part begins, in elements of each tensor.
struct Offsets {
  std::int64_t q, k, v, o, lse;
};

class CudnnAttention final : public GpuAttention {
 public:
  CudnnAttention(std::shared_ptr<const CudnnApi> api, cudnnHandle_t handle, CudnnDescriptor properties)
      : api_(api), handle_(handle), plans_(std::move(api), std::move(properties)) {}
  ~CudnnAttention() override {
    if (const cudnnStatus_t error = api_->destroy(handle_); error != CUDNN_STATUS_SUCCESS)
      std::fprintf(stderr, "cudnnDestroy: error %d\n", static_cast<int>(error));
  }
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  Status prepare(const kernels::AttentionShape& shape, std::size_t scratch_bytes) override {
    STRATA_RETURN_IF_ERROR(plans_.get(Direction::forward, shape, scratch_bytes).status());
    return plans_.get(Direction::backward, shape, scratch_bytes).status();
  }

  void forward(const kernels::AttentionForwardArgs& a, GpuQueue& queue) override {
    enqueue(Direction::forward, a, queue, [&](Pack& pack, const Offsets& at) {
      pack.add(cudnn_tensor::q, a.qkv_RD, at.q);
      pack.add(cudnn_tensor::k, a.qkv_RD, at.k);
      pack.add(cudnn_tensor::v, a.qkv_RD, at.v);
      pack.add(cudnn_tensor::o, a.o_RE, at.o);
      pack.add(cudnn_tensor::lse, a.lse_BNT, at.lse);
    });
  }

  void backward(const kernels::AttentionBackwardArgs& a, GpuQueue& queue) override {
    enqueue(Direction::backward, a, queue, [&](Pack& pack, const Offsets& at) {
      pack.add(cudnn_tensor::q, a.qkv_RD, at.q);
      pack.add(cudnn_tensor::k, a.qkv_RD, at.k);
      pack.add(cudnn_tensor::v, a.qkv_RD, at.v);
      pack.add(cudnn_tensor::o, a.o_RE, at.o);
      pack.add(cudnn_tensor::lse, a.lse_BNT, at.lse);
      pack.add(cudnn_tensor::d_o, a.do_RE, at.o);
      pack.add(cudnn_tensor::d_q, a.dqkv_RD, at.q);
      pack.add(cudnn_tensor::d_k, a.dqkv_RD, at.k);
      pack.add(cudnn_tensor::d_v, a.dqkv_RD, at.v);
      pack.add(cudnn_tensor::do_dot_o, a.scratch_SW, at.lse);
      pack.add(cudnn_tensor::one, &kOne);
    });
  }

 private:
  static constexpr float kOne = 1.0f, kMasked = -std::numeric_limits<float>::infinity();

  template <class Args, class Tensors>
  void enqueue(Direction direction, const Args& a, GpuQueue& queue, const Tensors& tensors) {
    const auto run = [&]() -> Status {
      STRATA_RETURN_IF_ERROR(use_gpu(queue.properties().ordinal));  // the handle's
      STRATA_ASSIGN_OR_RETURN(const CudnnAttentionPlans::Prepared* const prepared,
                              plans_.get(direction, shape_of(a), queue.scratch().size()));
      const CudnnAttentionPart& part = prepared->part;
      const std::int64_t queries = a.N / a.K;  // of a key head
      const std::lock_guard lock(mutex_);      // the handle's stream
      STRATA_RETURN_IF_ERROR(
          api_->checked(api_->set_stream(handle_, static_cast<cudaStream_t>(queue.native())), "cudnnSetStream"));
      for (std::int64_t b = 0; b < a.B; b += part.B) {
        for (std::int64_t k = 0; k < a.K; k += part.K) {
          const std::int64_t row = b * a.T * part.qkv_row;
          Pack pack;
          tensors(pack, Offsets{.q = row + k * queries * a.H,
                                .k = row + (a.N + k) * a.H,
                                .v = row + (a.N + a.K + k) * a.H,
                                .o = b * a.T * part.o_row + k * queries * a.H,
                                .lse = (b * a.N + k * queries) * a.T});
          if (!pack.is_aligned()) return {Code::unsupported, "cuDNN's attention needs tensors aligned to 16 bytes"};
          pack.add(cudnn_tensor::scale, &a.scale);
          pack.add(cudnn_tensor::masked, &kMasked);
          STRATA_RETURN_IF_ERROR(execute(prepared->plan, pack, queue.scratch().data()));
        }
      }
      return {};
    };
    if (const Status status = run(); !status.ok()) queue.fail(status);
  }

  Status execute(const CudnnPlan& plan, const Pack& pack, void* workspace) const {
    CudnnDescriptor variant(api_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    variant.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, pack.ids());
    variant.set_pointers(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pack.addresses());
    variant.set_pointers(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, std::span<void* const>(&workspace, 1));
    STRATA_RETURN_IF_ERROR(variant.finalize());
    return api_->checked(api_->execute(handle_, plan.plan.raw(), variant.raw()), "enqueueing attention");
  }

  std::shared_ptr<const CudnnApi> api_;
  cudnnHandle_t handle_;
  CudnnAttentionPlans plans_;
  std::mutex mutex_;
};

}  // namespace

Result<std::unique_ptr<GpuAttention>> make_cudnn_attention(int ordinal) {
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const CudnnApi> api, CudnnApi::load());
  STRATA_RETURN_IF_ERROR(use_gpu(ordinal));  // the handle is for the thread's device
  cudnnHandle_t handle = nullptr;
  STRATA_RETURN_IF_ERROR(api->checked(api->create(&handle), "cudnnCreate"));
  Result<CudnnDescriptor> properties = cudnn_properties(api, handle);
  if (!properties.ok()) {
    api->destroy(handle);
    return properties.status();
  }
  return std::unique_ptr<GpuAttention>(std::make_unique<CudnnAttention>(std::move(api), handle, std::move(properties).value()));
}

}  // namespace strata

#else

namespace strata {

Result<std::unique_ptr<GpuAttention>> make_cudnn_attention(int /*ordinal*/) {
  return Status(Code::unsupported, "this program was built without cuDNN's headers; install them and build again");
}

}  // namespace strata

#endif
