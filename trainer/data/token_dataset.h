// Training samples from token files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trainer/data/source.h"
#include "trainer/data/token_stream.h"

namespace strata {

struct TokenSourceOptions {
  std::vector<std::string> paths;  // see open_token_shards
  TokenFormat format = TokenFormat::automatic;
  std::int64_t sequence_length = 0;  // T
  std::uint64_t seed = 0;
  // Every token read is checked against it; 0: not checked.
  std::int64_t vocab_size = 0;
};

// The joined shards, cut every T tokens into samples of T + 1 (the last target of a sample is the first input of the next;
// what is left at the end is dropped). Epoch e takes them in the order of Permutation(samples, seed, e).
class TokenSource final : public DataSource {
 public:
  // vocab_size() is known for bytes and for files of up to this size together, which are read for it.
  static constexpr std::uint64_t kMaxScanBytes = std::uint64_t{1} << 30;

  // Also invalid_config: fewer than T + 1 tokens.
  static Result<std::unique_ptr<TokenSource>> open(const TokenSourceOptions& options);

  // corrupt: a token outside options.vocab_size, with its place.
  Status sample(std::uint64_t k, std::span<std::int32_t> out) const override;
  std::uint64_t samples_per_epoch() const override { return samples_; }
  std::int64_t vocab_size() const override { return vocab_size_; }
  const TokenStream& stream() const { return stream_; }

 private:
  TokenSource(TokenStream stream, const TokenSourceOptions& options, std::int64_t vocab_size);

  TokenStream stream_;
  std::uint64_t sequence_length_;
  std::uint64_t seed_;
  std::int64_t vocab_limit_;
  std::int64_t vocab_size_;
  std::uint64_t samples_;
};

}  // namespace strata
