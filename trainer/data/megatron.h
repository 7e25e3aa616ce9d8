// Megatron indexed datasets: PREFIX.bin holds the tokens, PREFIX.idx says where sequences and documents are. Little-endian:
//   "MMIDIDX\0\0" | u64 version = 1 | u8 token type | u64 sequences S | u64 document bounds D |
//   i32 length[S] (tokens) | i64 pointer[S] (byte offset in .bin) | i64 document[D] (first sequence of each, then S)
// Token types: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 and 7 floating point (not tokens: refused), 8 u16.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "trainer/data/output_file.h"
#include "trainer/data/token_shard.h"

namespace strata {

// Reads and checks the whole index against both files' sizes, in bounded memory; tokens are in the order of the sequences.
// not_found: a file of the pair is missing; corrupt: the first thing that cannot be; unsupported: floating-point "tokens" or
// the per-sequence modes of multimodal sets.
Result<TokenShard> open_megatron(const std::string& prefix);

// Streams documents into a pair; nothing appears under the final names before commit. Memory: 12 bytes per document and a
// fixed buffer. Not thread-safe; after an error only destruction is allowed.
class MegatronWriter {
 public:
  // A document longer than `max_sequence` tokens (at most what the format's i32 holds) becomes several sequences.
  static Result<std::unique_ptr<MegatronWriter>> create(const std::string& prefix, TokenType type,
                                                        std::uint64_t max_sequence = 0x7fffffff);

  // More tokens of the current document. invalid_argument: a token that the type cannot hold.
  Status append(std::span<const std::int32_t> tokens);
  // Ends the current document, which may be empty.
  Status end_document();
  std::uint64_t tokens() const { return tokens_; }
  std::uint64_t documents() const { return documents_.size() - 1; }
  // Writes the index and flushes both files to the disk. The last document must have ended.
  Status finish();

  // Makes finished pairs appear, replacing older ones. A crash in between leaves pairs that are old, new or without .idx,
  // which readers refuse; never an index of one generation with the tokens of another.
  static Status commit(std::span<MegatronWriter* const> writers);

 private:
  MegatronWriter(std::string prefix, TokenType type, std::uint64_t max_sequence);

  std::string prefix_;
  TokenType type_;
  std::uint64_t max_sequence_;
  std::unique_ptr<OutputFile> bin_;
  std::unique_ptr<OutputFile> idx_;
  std::uint64_t tokens_ = 0;
  std::uint64_t open_sequence_ = 0;    // tokens of the current sequence so far, at most max_sequence_
  std::vector<std::int32_t> lengths_;  // of ended sequences
  std::vector<std::int64_t> documents_ = {0};
  std::vector<std::byte> encoded_;  // scratch of append
};

}  // namespace strata
