#include "tests/emulator/emulated_attention.h"

#include <cstring>
#include <vector>

#include "runtime/arena.h"
#include "runtime/kernels/attention.h"

namespace strata::gpu_emulated {
namespace {

using kernels::AttentionBackwardArgs;
using kernels::AttentionForwardArgs;

// Of a key head of one sequence: dS in bf16.
std::size_t workspace_of(std::int64_t T, std::int64_t N, std::int64_t K) {
  return static_cast<std::size_t>(2 * T * T * (N / K));
}

// On a stream of its own, whose memory is the queue's.
template <class Kernel>
Status on_host(const Kernel& kernel) {
  Device device(Backend::host, 1);
  Stream stream(device, "library");
  kernel(device, stream);
  return stream.ref().synchronize();
}

class EmulatedAttention final : public GpuAttention {
 public:
  explicit EmulatedAttention(Counts& counts) : counts_(counts) {}

  Status prepare(const kernels::AttentionShape& s, std::size_t scratch_bytes) override {
    if (s.H % 8 != 0) return {Code::unsupported, "heads of " + std::to_string(s.H) + " are no multiple of 8"};
    if (const std::size_t needed = workspace_of(s.T, s.N, s.K); needed > scratch_bytes)
      return {Code::unsupported, "attention needs " + format_bytes(needed) + " of workspace"};
    return {};
  }

  void forward(const AttentionForwardArgs& args, GpuQueue& queue) override {
    enqueue("library_attention_forward", args, queue,
            [args](Device&, StreamRef stream) { kernels::attention_forward(args, stream); });
  }

  void backward(const AttentionBackwardArgs& args, GpuQueue& queue) override {
    enqueue("library_attention_backward", args, queue, [args](Device& device, StreamRef stream) {
      std::memset(args.scratch_SW.data, 0xff, args.scratch_SW.bytes());  // ours as long as the call
      AttentionBackwardArgs host = args;
      TierArena arena(Tier::cpu, std::size_t{64} << 20);
      const Tensor scratch(arena, Category::workspace, DType::f32, kernels::attention_backward_scratch(args, device),
                           "scratch");
      host.scratch_SW = scratch;
      kernels::attention_backward(host, stream);
      throw_if_error(stream.synchronize());
    });
  }

 private:
  template <class Args, class Kernel>
  void enqueue(const char* name, const Args& args, GpuQueue& queue, const Kernel& kernel) {
    const std::span<std::byte> scratch = queue.scratch();
    const kernels::AttentionShape shape = {args.B, args.T, args.N, args.K, args.H, args.scale};
    if (const Status status = prepare(shape, scratch.size()); !status.ok()) return queue.fail(status);
    counts_.kernel(name);
    const std::size_t workspace = workspace_of(args.T, args.N, args.K);
    static_cast<EmulatedQueue&>(queue).enqueue([kernel, scratch, workspace] {
      std::memset(scratch.data(), 0xff, workspace);
      return on_host(kernel);
    });
  }

  Counts& counts_;
};

}  // namespace

std::unique_ptr<GpuAttention> make_emulated_attention(Counts& counts) { return std::make_unique<EmulatedAttention>(counts); }

}  // namespace strata::gpu_emulated
