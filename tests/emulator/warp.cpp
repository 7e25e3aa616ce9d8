#include "tests/emulator/warp.h"

#include <bit>

namespace strata::gpu_emulated {
namespace {

// Places of words in a lane's part of the exchange.
constexpr int kA = 0, kB = 4, kD = 6;            // mma
constexpr int kPlace = 0, kRow = 4, kWords = 8;  // ldmatrix

float low(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

void multiply(Block&, int, Exchange& exchange) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const std::uint32_t* words = exchange.words[lane];
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      a[g + i % 2 * 8][t + i / 2 * 8] = low(words[kA + i]);
      a[g + i % 2 * 8][t + i / 2 * 8 + 1] = high(words[kA + i]);
      d[g + i / 2 * 8][t + i % 2] = std::bit_cast<float>(words[kD + i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[t + i * 8][g] = low(words[kB + i]);
      b[t + i * 8 + 1][g] = high(words[kB + i]);
    }
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < kWarp; ++lane)
    for (int i = 0; i < 4; ++i)
      exchange.words[lane][kD + i] = std::bit_cast<std::uint32_t>(d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}

// element(k, row, column) of matrix k, whose rows the lanes 8 k to 8 k + 7 read.
template <bool kTransposed>
void gather(Block& block, int warp, Exchange& exchange) {
  for (int lane = 0; lane < kWarp; ++lane)
    std::memcpy(exchange.words[lane] + kRow,
                block.read_shared_in_meeting(warp * kWarp + lane, exchange.words[lane][kPlace], 16), 16);
  const auto element = [&](int k, int row, int column) {
    const std::uint32_t pair = exchange.words[8 * k + row][kRow + column / 2];
    return column % 2 == 0 ? pair & 0xffffu : pair >> 16;
  };
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4, t = lane % 4 * 2;
    for (int k = 0; k < 4; ++k)
      exchange.words[lane][kWords + k] =
          kTransposed ? element(k, t, g) | element(k, t + 1, g) << 16 : element(k, g, t) | element(k, g, t + 1) << 16;
  }
}

template <bool kTransposed>
void load(const char* operation, std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i, std::source_location where) {
  Exchange& exchange = running_block->exchange();
  std::uint32_t* words = exchange.words[running_block->thread() % kWarp];
  words[kPlace] = static_cast<std::uint32_t>(from.place_of_16_bytes(i, where));
  running_block->meet_warp(operation, where, gather<kTransposed>);
  std::memcpy(r, words + kWords, sizeof(r));
}

}  // namespace

void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], std::source_location where) {
  Exchange& exchange = running_block->exchange();
  std::uint32_t* words = exchange.words[running_block->thread() % kWarp];
  std::memcpy(words + kA, a, sizeof(a));
  std::memcpy(words + kB, b, sizeof(b));
  std::memcpy(words + kD, d, sizeof(d));
  running_block->meet_warp("mma_16x8x16", where, multiply);
  std::memcpy(d, words + kD, sizeof(d));
}

void load_matrices(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i, std::source_location where) {
  load<false>("load_matrices", r, from, i, where);
}

void load_matrices_transposed(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i, std::source_location where) {
  load<true>("load_matrices_transposed", r, from, i, where);
}

}  // namespace strata::gpu_emulated
