// Where records lie: every byte of every version once, one path as if there were no others, several in proportion.
#include "nvme/record_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "nvme/format.h"
#include "nvme/probe.h"
#include "runtime/status.h"

namespace strata {
namespace {

constexpr std::size_t kChunk = format::kChunkBytes;
constexpr std::size_t kBlock = format::kBlockBytes;

std::vector<std::vector<double>> weightings() { return {{1}, {1, 1}, {3, 1}, {1, 3, 2}, {1, 1000}, {1, 1, 1, 1}, {0.25, 0.5}}; }

std::vector<std::size_t> sizes() {
  return {0, 1, kBlock, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk - kBlock, 2 * kChunk, 3, 7 * kChunk + 5, 0};
}

TEST(RecordLayout, VersionsOfAllRecordsTileEveryFile) {
  for (const std::vector<double>& weights : weightings()) {
    const RecordLayout layout(sizes(), weights);
    struct Range {
      std::uint64_t begin, end;
    };
    std::vector<std::vector<Range>> used(weights.size());
    for (std::size_t r = 0; r < layout.records(); ++r) {
      for (const std::uint64_t version : {4U, 7U}) {
        const RecordExtent extent = layout.extent(r, version);
        EXPECT_EQ(extent.bytes(), RecordLayout::extent_bytes(sizes()[r]));
        std::size_t at = 0;
        for (const RecordPiece& piece : extent.payload) {
          EXPECT_EQ(piece.first, at) << "the pieces follow each other in the buffer";
          EXPECT_EQ(piece.offset % kBlock, 0U);
          EXPECT_GT(piece.bytes, 0U);
          at += piece.bytes;
          used[piece.path].push_back({piece.offset, piece.offset + piece.bytes});
        }
        EXPECT_EQ(at, extent.padded_payload);
        EXPECT_EQ(extent.header.first, at);
        EXPECT_EQ(extent.header.bytes, kBlock);
        if (!extent.payload.empty()) {
          const RecordPiece& last = extent.payload.back();
          EXPECT_EQ(extent.header.path, last.path);
          EXPECT_EQ(extent.header.offset, last.offset + last.bytes) << "one sweep reads both";
        }
        used[extent.header.path].push_back({extent.header.offset, extent.header.offset + kBlock});
      }
    }
    std::uint64_t total = 0;
    for (std::size_t p = 0; p < weights.size(); ++p) {
      std::sort(used[p].begin(), used[p].end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
      std::uint64_t at = 0;
      for (const Range& range : used[p]) {
        EXPECT_EQ(range.begin, at) << "path " << p;
        at = range.end;
      }
      EXPECT_EQ(at, layout.file_bytes(p));
      total += at;
    }
    EXPECT_EQ(total, RecordLayout(sizes()).total_bytes()) << "the space needed does not depend on the paths";
  }
}

TEST(RecordLayout, OnePathHasOneExtentAVersion) {
  const RecordLayout layout(sizes());
  std::uint64_t at = 0;
  for (std::size_t r = 0; r < layout.records(); ++r) {
    for (const std::uint64_t version : {0U, 1U}) {
      const RecordExtent extent = layout.extent(r, version);
      EXPECT_EQ(extent.payload.size(), sizes()[r] == 0 ? 0U : 1U);
      EXPECT_EQ(extent.header.offset, at + extent.padded_payload);
      at += extent.bytes();
    }
  }
}

TEST(RecordLayout, SharesFollowTheWeightsToWithinAChunk) {
  for (const std::vector<double>& weights : weightings()) {
    double sum = 0;
    for (const double w : weights) sum += w;
    for (const std::vector<std::size_t>& payloads :
         {std::vector<std::size_t>(1, 64 * kChunk), std::vector<std::size_t>(40, 3 * kChunk),
          std::vector<std::size_t>(999, 4096)}) {
      const RecordLayout layout(payloads, weights);
      const double slots = static_cast<double>(layout.total_bytes()) / 2;
      for (std::size_t p = 0; p < weights.size(); ++p) {
        EXPECT_NEAR(static_cast<double>(layout.file_bytes(p)) / 2, slots * weights[p] / sum, kChunk + kBlock) << p;
      }
    }
  }
}

// So that a single record already keeps both drives busy.
TEST(RecordLayout, ChunksOfARecordAlternate) {
  const RecordLayout layout({6 * kChunk}, std::vector<double>{1, 1});
  const RecordExtent extent = layout.extent(0, 0);
  ASSERT_EQ(extent.payload.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(extent.payload[i].path, i % 2);
    EXPECT_EQ(extent.payload[i].bytes, kChunk);
    EXPECT_EQ(extent.payload[i].offset, i / 2 * kChunk);
  }
}

TEST(RecordLayout, WeightsMustBePositive) {
  EXPECT_THROW(RecordLayout({1}, std::vector<double>{}), ContractViolation);
  EXPECT_THROW(RecordLayout({1}, std::vector<double>{1, 0}), ContractViolation);
  EXPECT_THROW(RecordLayout({1}, std::vector<double>{1, -1}), ContractViolation);
}

TEST(PlacementWeights, KeepAllPathsBusyEquallyLong) {
  const std::vector<PathRate> rates = {{.read = 4e9, .write = 1e9}, {.read = 2e9, .write = 2e9}, {.read = 1e8, .write = 5e9}};
  const std::vector<double> weights = placement_weights(rates);
  for (std::size_t p = 0; p < rates.size(); ++p) {
    EXPECT_NEAR(weights[p] / rates[p].read + weights[p] / rates[p].write, 1.0, 1e-12);
  }
}

}  // namespace
}  // namespace strata
