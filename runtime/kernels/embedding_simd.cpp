#include "runtime/kernels/embedding_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

template <class T>
void copy_row(const T* x, T* y, std::int64_t n) {
  std::int64_t c = 0;
  for (; c + Vec::kLanes <= n; c += Vec::kLanes) __builtin_memcpy(y + c, x + c, Vec::kLanes * sizeof(T));
  for (; c < n; ++c) y[c] = x[c];
}

// y = a + b; y may be a.
template <class A, class B, class Y>
void add_rows(const A* a, const B* b, Y* y, std::int64_t count) {
  for_each_vec(count, [=](std::int64_t c, int n) { put(get(a + c, n) + get(b + c, n), y + c, n); });
}

template <class T>
void forward(const kernels::EmbeddingForwardLoop<T>& a, std::int64_t first, std::int64_t last) {
  for (std::int64_t r = first; r < last; ++r) {
    const T* token = a.wte + a.tokens[r] * a.C;
    if (a.wpe == nullptr)
      copy_row(token, a.y + r * a.C, a.C);
    else
      add_rows(token, a.wpe + r % a.seq * a.C, a.y + r * a.C, a.C);
  }
}

template <class T>
void backward(const kernels::EmbeddingBackwardLoop<T>& a, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kAhead = 4;  // rows of dwte are in no order that the hardware could foresee
  for (std::int64_t r = 0; r < a.R; ++r) {
    if (r + kAhead < a.R) {
      const float* next = a.dwte + a.tokens[r + kAhead] * a.C;
      for (std::int64_t c = first; c < last; c += 16) __builtin_prefetch(next + c, 1);
    }
    const T* dy = a.dy + r * a.C + first;
    float* dwte = a.dwte + a.tokens[r] * a.C + first;
    add_rows(dwte, dy, dwte, last - first);
    if (a.dwpe == nullptr) continue;
    float* dwpe = a.dwpe + r % a.seq * a.C + first;
    add_rows(dwpe, dy, dwpe, last - first);
  }
}

}  // namespace

const kernels::EmbeddingTable& embedding_table() {
  static constexpr kernels::EmbeddingTable kTable = {{forward<float>, backward<float>}, {forward<bf16>, backward<bf16>}};
  return kTable;
}

}  // namespace strata::STRATA_ISA
