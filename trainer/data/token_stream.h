// Shards joined to one flat sequence of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "trainer/data/token_shard.h"

namespace strata {

// Immutable and thread-safe.
class TokenStream {
 public:
  explicit TokenStream(std::vector<TokenShard> shards);
  static Result<TokenStream> open(const std::vector<std::string>& paths, TokenFormat format = TokenFormat::automatic);

  std::uint64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  const std::vector<TokenShard>& shards() const { return shards_; }
  // Tokens [first, first + out.size()), which must exist. corrupt: a token below 0 or above the largest i32.
  Status read(std::uint64_t first, std::span<std::int32_t> out) const;
  // Where token `position` lies: "PATH at byte N".
  std::string where(std::uint64_t position) const;
  // One more than the largest token, by reading them all; 257 for bytes, without reading.
  Result<std::int64_t> scan_vocab_size() const;
  std::uint64_t scan_bytes() const;  // what scan_vocab_size would read

 private:
  std::size_t run_of(std::uint64_t position) const;
  std::uint64_t begin_of(std::size_t run) const { return run == 0 ? 0 : ends_[run - 1]; }

  std::vector<TokenShard> shards_;
  std::vector<TokenRun> runs_;
  std::vector<std::uint64_t> ends_;  // of each run, in tokens of the stream
};

}  // namespace strata
