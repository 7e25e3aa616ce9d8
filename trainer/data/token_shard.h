// Token files of the known formats, opened and checked: what each holds, as runs of tokens in files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "trainer/data/input_file.h"

namespace strata {

enum class TokenType : std::uint8_t { u8, i8, u16, i16, u32, i32, i64 };
std::size_t size_of(TokenType type);
const char* to_string(TokenType type);

enum class TokenFormat { automatic, megatron, llmc, bytes };
const char* to_string(TokenFormat format);

// `count` tokens of `type`, little-endian, from byte `offset` of `file`. Without a file: the end-of-document token of the byte
// tokenizer, `count` times.
struct TokenRun {
  std::shared_ptr<const InputFile> file;
  std::uint64_t offset = 0;
  std::uint64_t count = 0;
  TokenType type = TokenType::u8;
};

struct TokenShard {
  std::string path;  // of the file or, for Megatron, the prefix
  TokenFormat format = TokenFormat::bytes;
  TokenType type = TokenType::u8;
  std::uint64_t tokens = 0;
  std::optional<std::uint64_t> sequences;  // where the format tells
  std::optional<std::uint64_t> documents;
  std::vector<TokenRun> runs;  // in order; their counts add up to `tokens`
};

// Opens what `paths` name, in the order given. A path is a file, a Megatron prefix (PREFIX.bin and PREFIX.idx; either file may
// be named too), a folder (all its files but hidden ones, sorted by name) or a pattern with * ? [] (sorted).
// `automatic` tells: a pair .bin + .idx is Megatron, a file that starts with an llm.c magic number is llm.c, any other file not
// called .bin or .idx is raw bytes. Errors: not_found; corrupt, for what no valid file holds; invalid_config, for a format that
// cannot be told.
Result<std::vector<TokenShard>> open_token_shards(const std::vector<std::string>& paths,
                                                  TokenFormat format = TokenFormat::automatic);

}  // namespace strata
