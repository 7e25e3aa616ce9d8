// Scores are kept transposed, [key][query]: softmax then runs along vectors without a sum across lanes, and of the five
// products of the backward pass none needs a transposed copy of a key tile. H and T need not be multiples of anything.
#include "runtime/kernels/attention_operands.h"

namespace strata::STRATA_ISA {
namespace {

using kernels::AttentionBackwardLoop;
using kernels::AttentionForwardLoop;
using kernels::AttentionSizes;

constexpr float kInfinity = __builtin_inff();

constexpr std::int64_t kWidestVec = 16;
static_assert(kWidestVec % Vec::kLanes == 0);
// Width of a row of H lanes: the same for every instruction set, so that a plan's bytes are.
std::int64_t padded(std::int64_t H) { return round_up(H, kWidestVec); }

template <class Math>
std::int64_t words_of(std::int64_t n) {
  return (n + Math::kPerWord - 1) / Math::kPerWord;
}

std::int64_t tile_count(std::int64_t first, std::int64_t T) { return first + kTile < T ? kTile : T - first; }

template <class T>
HeadRows<T> key_rows(const T* batch, const AttentionSizes& size, std::int64_t key_head, std::int64_t first) {
  return {batch + first * size.row() + (size.N + key_head) * size.H, size.row(), tile_count(first, size.T)};
}
template <class T>
HeadRows<T> value_rows(const T* batch, const AttentionSizes& size, std::int64_t key_head, std::int64_t first) {
  return {batch + first * size.row() + (size.N + size.K + key_head) * size.H, size.row(), tile_count(first, size.T)};
}

// In how many of the lanes [q, q + kLanes) of a diagonal tile key j comes after the query: these are the first ones.
int later_lanes(std::int64_t j, std::int64_t q) {
  const std::int64_t n = j - q;
  return n <= 0 ? 0 : n < Vec::kLanes ? static_cast<int>(n) : Vec::kLanes;
}

void mask_later_keys(float* scores, std::int64_t keys) {
  for (std::int64_t j = 1; j < keys; ++j) {
    for (std::int64_t q = 0; q < j; q += Vec::kLanes) {
      float* at = scores + j * kTile + q;
      store(select_first(later_lanes(j, q), splat(-kInfinity), load(at)), at);
    }
  }
}

struct SoftmaxState {
  float max[kTile];    // of raw scores
  float sum[kTile];    // of exp(scale * (score - max))
  float decay[kTile];  // what the last tile's new maximum multiplies earlier sums by
};

// Turns scores into exp(scale * (score - max)), as words for the product with the values, and updates the state.
template <class Math>
void online_softmax(float* scores, std::int64_t keys, float scale, SoftmaxState& state) {
  const Vec factor = splat(scale);
  for (std::int64_t q = 0; q < kTile; q += Vec::kLanes) {
    const Vec old_max = load(state.max + q);
    Vec top = old_max;
    for (std::int64_t j = 0; j < keys; ++j) top = max(load(scores + j * kTile + q), top);
    const Vec shift = splat(0.0f) - top * factor;
    const Vec decay = exp(fma(old_max, factor, shift));
    Vec sum = splat(0.0f);
    const auto probability = [&](std::int64_t j) { return exp(fma(load(scores + j * kTile + q), factor, shift)); };
    if constexpr (Math::kPerWord == 1) {
      for (std::int64_t j = 0; j < keys; ++j) {
        const Vec p = probability(j);
        sum = sum + p;
        store(p, scores + j * kTile + q);
      }
    } else {
      for (std::int64_t j = 0; j < keys; j += 2) {
        const Vec low = probability(j);
        const Vec high = j + 1 < keys ? probability(j + 1) : splat(0.0f);
        sum = sum + low + high;
        store(Math::pair(low, high), scores + j / 2 * kTile + q);
      }
    }
    store(top, state.max + q);
    store(decay, state.decay + q);
    store(fma(load(state.sum + q), decay, sum), state.sum + q);
  }
}

void rescale(float* out_HQ, const float* decay, std::int64_t H) {
  for (std::int64_t h = 0; h < H; ++h) {
    for (std::int64_t q = 0; q < kTile; q += Vec::kLanes)
      store(load(out_HQ + h * kTile + q) * load(decay + q), out_HQ + h * kTile + q);
  }
}

struct ForwardScratch {
  float *q, *scores, *out, *values, *keys;
  std::size_t bytes;
  ForwardScratch(std::byte* base, const AttentionSizes& size) {
    Scratch scratch(base);
    q = scratch.take(kTile * size.H);
    scores = scratch.take(kTile * kTile);
    out = scratch.take(kTile * size.H);
    keys = scratch.take(kTile * size.H);
    values = scratch.take(kTile * size.H);
    bytes = scratch.used();
  }
};

template <class Math, class T>
void forward(const AttentionForwardLoop<T>& a, std::int64_t b, std::int64_t head, std::int64_t tile, std::byte* base) {
  const AttentionSizes& size = a.size;
  const std::int64_t H = size.H, first = tile * kTile, queries = tile_count(first, size.T), key_head = head / size.group();
  const ForwardScratch s(base, size);
  const T* batch = a.qkv + b * size.T * size.row();
  pack_transposed<Math, T>({batch + first * size.row() + head * H, size.row(), queries}, words_of<Math>(H), s.q);
  SoftmaxState state;
  for (std::int64_t q = 0; q < kTile; ++q) {
    state.max[q] = -kInfinity;
    state.sum[q] = 0.0f;
  }
  for (std::int64_t key = 0; key <= first; key += kTile) {
    const HeadRows<T> k_rows = key_rows(batch, size, key_head, key), v_rows = value_rows(batch, size, key_head, key);
    const OperandA k = key_operands<Math>(k_rows, H, false, s.keys).by_key;
    tile_product<Math>(k_rows.count, kTile, words_of<Math>(H), k, s.q, kTile, s.scores, kTile, false);
    if (key == first) mask_later_keys(s.scores, k_rows.count);
    online_softmax<Math>(s.scores, k_rows.count, size.scale, state);
    if (key > 0) rescale(s.out, state.decay, H);
    const OperandA v = key_operands<Math>(v_rows, H, true, s.values).by_dim;
    tile_product<Math>(H, kTile, words_of<Math>(v_rows.count), v, s.scores, kTile, s.out, kTile, key > 0);
  }
  float inverse[kTile] = {};
  float* lse = a.lse + (b * size.N + head) * size.T + first;
  for (std::int64_t q = 0; q < queries; ++q) {
    inverse[q] = 1.0f / state.sum[q];
    lse[q] = state.max[q] * size.scale + __builtin_logf(state.sum[q]);
  }
  unpack_transposed(s.out, inverse, H, queries, a.o + ((b * size.T + first) * size.N + head) * H, size.N * H);
}

struct BackwardScratch {
  float *q_t, *do_t, *q_rows, *do_rows;  // of a query tile
  float *keys, *values;                  // of a key tile
  float *p, *ds, *p_rows, *ds_rows;      // [key][query]; *_rows only where a word is a pair
  float *dq, *dk, *dv;
  std::size_t bytes;
  BackwardScratch(std::byte* base, const AttentionSizes& size) {
    Scratch scratch(base);
    for (float** part : {&q_t, &do_t, &keys, &values, &dq}) *part = scratch.take(kTile * size.H);
    for (float** part : {&q_rows, &do_rows}) *part = scratch.take(kTile * padded(size.H));
    for (float** part : {&p, &ds}) *part = scratch.take(kTile * kTile);
    for (float** part : {&p_rows, &ds_rows}) *part = scratch.take(kTile * kTile / 2);
    for (float** part : {&dk, &dv}) *part = scratch.take(size.T * padded(size.H));
    bytes = scratch.used();
  }
};

// What the queries of a tile have in common with every key. Lanes without a query get probability 0 and gradient 0.
struct QueryStatistics {
  float lse[kTile];
  float delta[kTile];  // sum of do * o
};

template <class T>
void fill_statistics(const HeadRows<T>& o, const HeadRows<T>& d_o, const float* lse, std::int64_t H, QueryStatistics& to) {
  for (std::int64_t q = 0; q < kTile; ++q) {
    to.lse[q] = q < o.count ? lse[q] : kInfinity;
    Vec sum = splat(0.0f);
    if (q < o.count)
      for_each_vec(H, [&](std::int64_t h, int n) { sum = fma(get(o.row(q) + h, n), get(d_o.row(q) + h, n), sum); });
    to.delta[q] = reduce_add(sum);
  }
}

// p and ds hold the scores and dp = v do^T of a key tile; they become probabilities and scale * p * (dp - delta).
template <class Math>
void softmax_backward(const BackwardScratch& s, std::int64_t keys, bool diagonal, float scale, const QueryStatistics& query) {
  const Vec factor = splat(scale);
  for (std::int64_t q = 0; q < kTile; q += Vec::kLanes) {
    const Vec shift = splat(0.0f) - load(query.lse + q);
    const Vec delta = load(query.delta + q);
    const auto probability = [&](std::int64_t j) {
      const Vec p = exp(fma(load(s.p + j * kTile + q), factor, shift));
      return diagonal ? select_first(later_lanes(j, q), splat(0.0f), p) : p;
    };
    const auto gradient = [&](std::int64_t j, Vec p) { return p * (load(s.ds + j * kTile + q) - delta) * factor; };
    if constexpr (Math::kPerWord == 1) {
      for (std::int64_t j = 0; j < keys; ++j) {
        const Vec p = probability(j);
        store(p, s.p + j * kTile + q);
        store(gradient(j, p), s.ds + j * kTile + q);
      }
    } else {
      bf16* p_rows = reinterpret_cast<bf16*>(s.p_rows);
      bf16* ds_rows = reinterpret_cast<bf16*>(s.ds_rows);
      const auto finish = [&](std::int64_t j) {
        const Vec p = probability(j);
        const Vec ds = gradient(j, p);
        store(p, p_rows + j * kTile + q);
        store(ds, ds_rows + j * kTile + q);
        return ds;
      };
      for (std::int64_t j = 0; j < keys; j += 2) {
        const Vec low = finish(j);
        const Vec high = j + 1 < keys ? finish(j + 1) : splat(0.0f);
        store(Math::pair(low, high), s.ds + j / 2 * kTile + q);
      }
    }
  }
}

// Adds the gradients that one query tile sends to one key tile, and the reverse.
template <class Math, class T>
void backward_pair(const AttentionSizes& size, const T* batch, std::int64_t key_head, std::int64_t first_query,
                   std::int64_t queries, std::int64_t first_key, const QueryStatistics& query, const BackwardScratch& s) {
  const std::int64_t H = size.H, width = padded(H);
  const HeadRows<T> k_rows = key_rows(batch, size, key_head, first_key), v_rows = value_rows(batch, size, key_head, first_key);
  const std::int64_t keys = k_rows.count;
  const KeyOperands k = key_operands<Math>(k_rows, H, true, s.keys), v = key_operands<Math>(v_rows, H, false, s.values);
  tile_product<Math>(keys, kTile, words_of<Math>(H), k.by_key, s.q_t, kTile, s.p, kTile, false);
  tile_product<Math>(keys, kTile, words_of<Math>(H), v.by_key, s.do_t, kTile, s.ds, kTile, false);
  softmax_backward<Math>(s, keys, first_key == first_query, size.scale, query);
  constexpr bool kPairs = Math::kPerWord == 2;
  constexpr std::int64_t kRowBytes = kTile * 4 / Math::kPerWord;
  const OperandA p = {kPairs ? s.p_rows : s.p, kRowBytes, 4}, ds = {kPairs ? s.ds_rows : s.ds, kRowBytes, 4};
  const std::int64_t query_words = words_of<Math>(queries);
  tile_product<Math>(keys, width, query_words, p, s.do_rows, width, s.dv + first_key * width, width, true);
  tile_product<Math>(keys, width, query_words, ds, s.q_rows, width, s.dk + first_key * width, width, true);
  tile_product<Math>(H, kTile, words_of<Math>(keys), k.by_dim, s.ds, kTile, s.dq, kTile, first_key > 0);
}

template <class T>
void store_rows(const float* from, std::int64_t H, std::int64_t rows, T* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r)
    for_each_vec(H, [&](std::int64_t h, int n) { put(load(from + r * padded(H) + h), to + r * stride + h, n); });
}

template <class Math, class T>
void backward(const AttentionBackwardLoop<T>& a, std::int64_t b, std::int64_t key_head, std::byte* base) {
  const AttentionSizes& size = a.size;
  const std::int64_t H = size.H, width = padded(H);
  const BackwardScratch s(base, size);
  const T* batch = a.qkv + b * size.T * size.row();
  T* gradient = a.dqkv + b * size.T * size.row();
  __builtin_memset(s.dk, 0, sizeof(float) * static_cast<std::size_t>(size.T * width));
  __builtin_memset(s.dv, 0, sizeof(float) * static_cast<std::size_t>(size.T * width));
  float ones[kTile];
  for (float& one : ones) one = 1.0f;
  for (std::int64_t head = key_head * size.group(); head < (key_head + 1) * size.group(); ++head) {
    for (std::int64_t first = 0; first < size.T; first += kTile) {
      const std::int64_t queries = tile_count(first, size.T);
      const std::int64_t out = ((b * size.T + first) * size.N + head) * H;
      const HeadRows<T> q = {batch + first * size.row() + head * H, size.row(), queries};
      const HeadRows<T> o = {a.o + out, size.N * H, queries}, d_o = {a.d_o + out, size.N * H, queries};
      pack_transposed<Math>(q, words_of<Math>(H), s.q_t);
      pack_transposed<Math>(d_o, words_of<Math>(H), s.do_t);
      pack_rows<Math>(q, H, width, s.q_rows);
      pack_rows<Math>(d_o, H, width, s.do_rows);
      QueryStatistics query;
      fill_statistics(o, d_o, a.lse + (b * size.N + head) * size.T + first, H, query);
      for (std::int64_t key = 0; key <= first; key += kTile)
        backward_pair<Math>(size, batch, key_head, first, queries, key, query, s);
      unpack_transposed(s.dq, ones, H, queries, gradient + first * size.row() + head * H, size.row());
    }
  }
  store_rows(s.dk, H, size.T, gradient + (size.N + key_head) * H, size.row());
  store_rows(s.dv, H, size.T, gradient + (size.N + size.K + key_head) * H, size.row());
}

std::size_t forward_scratch(const AttentionSizes& size) { return ForwardScratch(nullptr, size).bytes; }
std::size_t backward_scratch(const AttentionSizes& size) { return BackwardScratch(nullptr, size).bytes; }

template <class Math, class T>
constexpr kernels::AttentionLoops<T> loops() {
  return {forward<Math, T>, backward<Math, T>, forward_scratch, backward_scratch};
}

}  // namespace

const kernels::AttentionTable& attention_table() {
#if defined(STRATA_ISA_avx512)
  static constexpr kernels::AttentionLoops<bf16> pairs = loops<Bf16PairMath, bf16>();
  static const bool has_pairs = __builtin_cpu_supports("avx512bf16");
  static const kernels::AttentionTable table = {.loops = {loops<F32Math, float>(), loops<F32Math, bf16>()},
                                                .bf16_pairs = has_pairs ? &pairs : nullptr};
#else
  static constexpr kernels::AttentionTable table = {.loops = {loops<F32Math, float>(), loops<F32Math, bf16>()},
                                                    .bf16_pairs = nullptr};
#endif
  return table;
}

}  // namespace strata::STRATA_ISA
