// XXH3-64 of long inputs (seed 0, the default secret), by its specification: eight sums of 64 bits take in 64 bytes a stripe;
// after 16 stripes, a block, they are scrambled. What a block adds to the sums does not depend on them. So all blocks'
// additions are calculated at once, and only the scrambling goes from block to block: some five instructions each.
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/reduce.h"

namespace strata::STRATA_GPU {
namespace {

constexpr int kLanes = 8;  // sums
constexpr int kStripes = 16;
constexpr std::int64_t kStripeBytes = kLanes * sizeof(std::uint64_t);
constexpr std::int64_t kBlockBytes = kStripes * kStripeBytes;
constexpr int kBlockThreads = 128;
constexpr int kSecretWords = 24;
constexpr int kSecretBytes = kSecretWords * static_cast<int>(sizeof(std::uint64_t));
constexpr int kScrambleWord = 16;                       // of the secret: its last 64 bytes
constexpr int kLastStripeByte = kSecretBytes - 64 - 7;  // and those of the last stripe
constexpr int kMergeByte = 11;                          // and those of the end
constexpr int kBatch = 16;                              // blocks whose additions are on their way at once
constexpr std::int64_t kStateBytes = kLanes * sizeof(std::uint64_t);

constexpr std::uint64_t kPrime32_1 = 0x9E3779B1u, kPrime32_2 = 0x85EBCA77u, kPrime32_3 = 0xC2B2AE3Du;
constexpr std::uint64_t kPrime64_1 = 0x9E3779B185EBCA87u, kPrime64_2 = 0xC2B2AE3D27D4EB4Fu, kPrime64_3 = 0x165667B19E3779F9u,
                        kPrime64_4 = 0x85EBCA77C2B2AE63u, kPrime64_5 = 0x27D4EB2F165667C5u;
constexpr std::uint64_t kAvalanche = 0x165667919E3779F9u;

// Static: else every thread makes the table on its stack.
STRATA_DEVICE std::uint64_t secret_word(int i) {
  static constexpr std::uint64_t kSecret[kSecretWords] = {
      0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u, 0x78e5c0cc4ee679cbu,
      0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u, 0xcb00c391bb52283cu, 0xa32e531b8b65d088u,
      0x4ef90da297486471u, 0xd8acdea946ef1938u, 0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au,
      0x647378d9c97e9fc8u, 0xc3ebd33483acc5eau, 0xeb6313faffa081c5u, 0x49daf0b751dd0d17u, 0x9e68d429265516d3u,
      0xfca1477d58be162bu, 0xce31d07ad1b8f88fu, 0x280416958f3acb45u, 0x7e404bbbcafbd7afu};
  return kSecret[i];
}

STRATA_DEVICE std::uint64_t first_sum(int lane) {
  static constexpr std::uint64_t kFirst[kLanes] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                                                   kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
  return kFirst[lane];
}

// The secret in shared memory, for indices that differ from thread to thread.
STRATA_DEVICE SharedArray<std::uint64_t> load_secret() {
  const auto secret = shared_array<std::uint64_t>(0, kSecretWords);
  if (thread_index() < kSecretWords) secret[thread_index()] = secret_word(thread_index());
  sync_block();
  return secret;
}

STRATA_DEVICE std::uint64_t secret_at(const SharedArray<std::uint64_t>& secret, int byte) {
  const int word = byte / 8, shift = byte % 8 * 8;
  return shift == 0 ? secret[word] : secret[word] >> shift | secret[word + 1] << (64 - shift);
}

// At any address.
STRATA_DEVICE std::uint64_t word_at(const std::byte* from) {
  std::uint64_t word = 0;
  for (int i = 0; i < 8; ++i) word |= static_cast<std::uint64_t>(from[i]) << (8 * i);
  return word;
}

// What a stripe adds to a sum: the lane's own word, keyed, as a product of its halves, and its neighbour's as it is.
STRATA_DEVICE std::uint64_t addition(std::uint64_t word, std::uint64_t neighbour, std::uint64_t key) {
  const std::uint64_t keyed = word ^ key;
  return neighbour + (keyed & 0xffffffffu) * (keyed >> 32);
}

// Eight threads for each block of the input, one for each sum.
STRATA_KERNEL xxh3_additions_kernel(const std::uint64_t* data, std::int64_t blocks, std::uint64_t* additions) {
  const auto secret = load_secret();
  const int lane = thread_index() % kLanes;
  const std::int64_t block = block_x() * (kBlockThreads / kLanes) + thread_index() / kLanes;
  if (block >= blocks) return;
  const std::uint64_t* const from = data + block * (kStripes * kLanes);
  std::uint64_t sum = 0;
  STRATA_UNROLL
  for (int s = 0; s < kStripes; ++s) sum += addition(from[s * kLanes + lane], from[s * kLanes + (lane ^ 1)], secret[s + lane]);
  additions[block * kLanes + lane] = sum;
}

// What follows the last whole block.
struct Rest {
  const std::uint64_t* data;  // after it
  std::int32_t stripes;       // there, without the last one
  const std::byte* last;      // stripe, which ends with the input and may overlap the others
  std::uint64_t input_bytes;
};

STRATA_DEVICE std::uint64_t folded_product(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kLow = 0xffffffffu;
  const std::uint64_t low = (a & kLow) * (b & kLow), high = (a >> 32) * (b >> 32);
  const std::uint64_t mixed = (a >> 32) * (b & kLow), other = (a & kLow) * (b >> 32);
  const std::uint64_t middle = (low >> 32) + (mixed & kLow) + other;
  return ((mixed >> 32) + (middle >> 32) + high) ^ (middle << 32 | (low & kLow));
}

// One warp, of which every eight lanes do the same. state: the sums, read unless `first`; hash: null, or `rest` is the end.
STRATA_KERNEL xxh3_chain_kernel(const std::uint64_t* additions, std::int64_t blocks, bool first, std::uint64_t* state,
                                Rest rest, std::uint64_t* hash) {
  const auto secret = load_secret();
  const int lane = lane_index() % kLanes;
  const std::uint64_t key = secret[kScrambleWord + lane];
  std::uint64_t sum = first ? first_sum(lane) : state[lane];
  const auto take_in = [&](std::uint64_t add) {
    sum += add;
    sum = (sum ^ sum >> 47 ^ key) * kPrime32_1;
  };
  const std::uint64_t* const mine = additions + lane;
  std::uint64_t next[kBatch];
  const auto fetch = [&](std::int64_t from) {
    STRATA_UNROLL
    for (int k = 0; k < kBatch; ++k) next[k] = from + k < blocks ? mine[(from + k) * kLanes] : 0;
  };
  fetch(0);
  std::int64_t block = 0;
  for (; block + kBatch <= blocks; block += kBatch) {
    std::uint64_t batch[kBatch];
    STRATA_UNROLL
    for (int k = 0; k < kBatch; ++k) batch[k] = next[k];
    fetch(block + kBatch);
    STRATA_UNROLL
    for (int k = 0; k < kBatch; ++k) take_in(batch[k]);
  }
  STRATA_UNROLL
  for (int k = 0; k < kBatch; ++k)
    if (block + k < blocks) take_in(next[k]);
  if (hash == nullptr) {
    sync_warp();  // all have read the state
    if (lane_index() < kLanes) state[lane] = sum;
    return;
  }
  for (int s = 0; s < rest.stripes; ++s)
    sum += addition(rest.data[s * kLanes + lane], rest.data[s * kLanes + (lane ^ 1)], secret[s + lane]);
  sum += addition(word_at(rest.last + lane * 8), word_at(rest.last + (lane ^ 1) * 8),
                  secret_at(secret, kLastStripeByte + lane * 8));
  const int pair = lane % 4;
  const std::uint64_t a = shuffle(sum, 2 * pair), b = shuffle(sum, 2 * pair + 1);
  std::uint64_t merged =
      folded_product(a ^ secret_at(secret, kMergeByte + 16 * pair), b ^ secret_at(secret, kMergeByte + 16 * pair + 8));
  merged += shuffle_xor(merged, 1);
  merged += shuffle_xor(merged, 2);
  merged += rest.input_bytes * kPrime64_1;
  merged = (merged ^ merged >> 37) * kAvalanche;
  if (lane_index() == 0) *hash = merged ^ merged >> 32;
}

}  // namespace

void xxh3_64(const std::byte* data, std::int64_t n, std::uint64_t* hash, GpuQueue& queue) {
  if (!has_scratch(queue, "xxh3_64", kStateBytes + kStateBytes)) return;
  const auto words = reinterpret_cast<const std::uint64_t*>(data);
  const std::int64_t blocks = (n - 1) / kBlockBytes;
  const Rest rest = {words + blocks * (kBlockBytes / 8),
                     static_cast<std::int32_t>((n - 1 - blocks * kBlockBytes) / kStripeBytes), data + n - kStripeBytes,
                     static_cast<std::uint64_t>(n)};
  auto* const state = reinterpret_cast<std::uint64_t*>(queue.scratch().data());
  std::uint64_t* const additions = state + kLanes;
  const std::int64_t at_once = static_cast<std::int64_t>(queue.scratch().size()) / kStateBytes - 1;
  std::int64_t done = 0;
  do {
    const std::int64_t now = blocks - done < at_once ? blocks - done : at_once;
    const bool last = done + now == blocks;
    constexpr std::int64_t kAtOnce = kBlockThreads / kLanes;
    launch(queue, xxh3_additions_kernel, Grid{.x = (now + kAtOnce - 1) / kAtOnce}, kBlockThreads, kSecretBytes,
           words + done * (kBlockBytes / 8), now, additions);
    launch(queue, xxh3_chain_kernel, Grid{}, kWarp, kSecretBytes, static_cast<const std::uint64_t*>(additions), now, done == 0,
           state, rest, last ? hash : static_cast<std::uint64_t*>(nullptr));
    done += now;
  } while (done < blocks);
}

}  // namespace strata::STRATA_GPU
