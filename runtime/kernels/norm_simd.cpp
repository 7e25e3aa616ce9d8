// Every pass but the first over a row reads it from the L1 cache.
#include "runtime/kernels/norm_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

template <class T>
void add_residual(const T* x, const T* residual, T* sum, std::int64_t C) {
  for_each_vec(C, [&](std::int64_t c, int n) { put(get(x + c, n) + get(residual + c, n), sum + c, n); });
}

template <class T>
float mean_of(const T* s, std::int64_t C) {
  Vec sum = splat(0.0f);
  for_each_vec(C, [&](std::int64_t c, int n) { sum = sum + get(s + c, n); });
  return reduce_add(sum) / static_cast<float>(C);
}

// mean((s - shift)^2)
template <class T>
float mean_square(const T* s, float shift, std::int64_t C) {
  Vec sum = splat(0.0f);
  const Vec mean = splat(shift);
  for_each_vec(C, [&](std::int64_t c, int n) {
    Vec d = get(s + c, n) - mean;
    if (n < Vec::kLanes) d = select_first(n, d, splat(0.0f));
    sum = fma(d, d, sum);
  });
  return reduce_add(sum) / static_cast<float>(C);
}

template <bool kLayer, class T>
void forward(const kernels::NormForwardLoop<T>& a, std::int64_t first, std::int64_t last) {
  for (std::int64_t r = first; r < last; ++r) {
    const std::int64_t at = r * a.C;
    const T* s = a.x + at;
    if (a.residual != nullptr) {
      add_residual(s, a.residual + at, a.sum + at, a.C);
      s = a.sum + at;
    }
    const float mean = kLayer ? mean_of(s, a.C) : 0.0f;
    const float rstd = 1.0f / __builtin_sqrtf(mean_square(s, mean, a.C) + a.eps);
    if (kLayer) a.mean[r] = mean;
    a.rstd[r] = rstd;
    const Vec shift = splat(mean);
    const Vec scale = splat(rstd);
    T* y = a.y + at;
    if (kLayer && a.b != nullptr) {
      for_each_vec(a.C, [&](std::int64_t c, int n) {
        put(fma((get(s + c, n) - shift) * scale, get(a.w + c, n), get(a.b + c, n)), y + c, n);
      });
    } else {
      for_each_vec(a.C, [&](std::int64_t c, int n) {
        const Vec centred = kLayer ? get(s + c, n) - shift : get(s + c, n);
        put(centred * scale * get(a.w + c, n), y + c, n);
      });
    }
  }
}

void clear(float* p, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) p[i] = 0.0f;
}

// With g = dy * w and h = (s - mean) * rstd:  dx = rstd * (g - mean(g) - h * mean(g h));  rms has no mean(g).
template <bool kLayer, class T>
void backward(const kernels::NormBackwardLoop<T>& a, std::int64_t first, std::int64_t last, float* dw, float* db) {
  clear(dw, a.C);
  if (db != nullptr) clear(db, a.C);
  for (std::int64_t r = first; r < last; ++r) {
    const T* dy = a.dy + r * a.C;
    const T* s = a.s + r * a.C;
    const Vec shift = splat(kLayer ? a.mean[r] : 0.0f);
    const Vec scale = splat(a.rstd[r]);
    const auto normalised = [&](std::int64_t c, int n) { return (kLayer ? get(s + c, n) - shift : get(s + c, n)) * scale; };
    Vec sum_g = splat(0.0f);
    Vec sum_gh = splat(0.0f);
    const auto first_pass = [&](std::int64_t c, int n) {
      const Vec d = get(dy + c, n);
      const Vec h = normalised(c, n);
      const Vec g = d * get(a.w + c, n);
      if (kLayer) sum_g = sum_g + g;
      sum_gh = fma(g, h, sum_gh);
      put(fma(d, h, get(dw + c, n)), dw + c, n);
      return d;
    };
    if (db != nullptr)
      for_each_vec(a.C, [&](std::int64_t c, int n) { put(get(db + c, n) + first_pass(c, n), db + c, n); });
    else
      for_each_vec(a.C, [&](std::int64_t c, int n) { first_pass(c, n); });
    const Vec mean_g = splat(kLayer ? reduce_add(sum_g) / static_cast<float>(a.C) : 0.0f);
    const Vec mean_gh = splat(reduce_add(sum_gh) / static_cast<float>(a.C));
    const auto gradient = [&](std::int64_t c, int n) {
      const Vec g = get(dy + c, n) * get(a.w + c, n);
      const Vec inner = (kLayer ? g - mean_g : g) - normalised(c, n) * mean_gh;
      return inner * scale;
    };
    T* dx = a.dx + r * a.C;
    if (a.dresidual != nullptr) {
      const T* other = a.dresidual + r * a.C;
      for_each_vec(a.C, [&](std::int64_t c, int n) { put(gradient(c, n) + get(other + c, n), dx + c, n); });
    } else {
      for_each_vec(a.C, [&](std::int64_t c, int n) { put(gradient(c, n), dx + c, n); });
    }
  }
}

template <class T>
void head_forward(const kernels::HeadNormForwardLoop<T>& a, std::int64_t first, std::int64_t last) {
  const std::int64_t heads = a.N + a.K;
  const std::int64_t D = (heads + a.K) * a.H;
  for (std::int64_t r = first; r < last; ++r) {
    for (std::int64_t m = 0; m < heads; ++m) {
      const T* w = m < a.N ? a.wq : a.wk;
      const T* s = a.in + r * D + m * a.H;
      T* y = a.out + r * D + m * a.H;
      const float rstd = 1.0f / __builtin_sqrtf(mean_square(s, 0.0f, a.H) + a.eps);
      a.rstd[r * heads + m] = rstd;
      const Vec scale = splat(rstd);
      for_each_vec(a.H, [&](std::int64_t c, int n) { put(get(s + c, n) * scale * get(w + c, n), y + c, n); });
    }
    const std::int64_t values = r * D + heads * a.H;
    __builtin_memcpy(a.out + values, a.in + values, static_cast<std::size_t>(a.K * a.H) * sizeof(T));
  }
}

template <class T>
void head_backward(const kernels::HeadNormBackwardLoop<T>& a, std::int64_t first, std::int64_t last, float* dwq, float* dwk) {
  const std::int64_t heads = a.N + a.K;
  const std::int64_t D = (heads + a.K) * a.H;
  clear(dwq, a.H);
  clear(dwk, a.H);
  for (std::int64_t r = first; r < last; ++r) {
    for (std::int64_t m = 0; m < heads; ++m) {
      const T* w = m < a.N ? a.wq : a.wk;
      float* dw = m < a.N ? dwq : dwk;
      const T* s = a.in + r * D + m * a.H;
      T* d = a.dqkv + r * D + m * a.H;
      const Vec scale = splat(a.rstd[r * heads + m]);
      Vec sum_gh = splat(0.0f);
      for_each_vec(a.H, [&](std::int64_t c, int n) {
        const Vec h = get(s + c, n) * scale;
        const Vec dy = get(d + c, n);
        sum_gh = fma(dy * get(w + c, n), h, sum_gh);
        put(fma(dy, h, get(dw + c, n)), dw + c, n);
      });
      const Vec mean_gh = splat(reduce_add(sum_gh) / static_cast<float>(a.H));
      for_each_vec(a.H, [&](std::int64_t c, int n) {
        const Vec g = get(d + c, n) * get(w + c, n);
        put((g - get(s + c, n) * scale * mean_gh) * scale, d + c, n);
      });
    }
  }
}

void combine(const float* partials, std::int64_t blocks, std::int64_t stride, float* sum, std::int64_t first,
             std::int64_t last) {
  for_each_vec(last - first, [&](std::int64_t i, int n) {
    const std::int64_t c = first + i;
    Vec total = splat(0.0f);
    for (std::int64_t k = 0; k < blocks; ++k) total = total + get(partials + k * stride + c, n);
    put(get(sum + c, n) + total, sum + c, n);
  });
}

template <class T>
constexpr kernels::NormLoops<T> loops() {
  return {
      .layer_forward = forward<true, T>,
      .rms_forward = forward<false, T>,
      .layer_backward = backward<true, T>,
      .rms_backward = backward<false, T>,
      .head_forward = head_forward<T>,
      .head_backward = head_backward<T>,
  };
}

}  // namespace

const kernels::NormTable& norm_table() {
  static constexpr kernels::NormTable kTable = {.loops = {loops<float>(), loops<bf16>()}, .combine = combine};
  return kTable;
}

}  // namespace strata::STRATA_ISA
