// Token shards of llm.c: a header of 256 32-bit words (magic number, version, token count, zeros), then the tokens.
// Magic 20240520, version 1: 16-bit tokens (GPT-2). Magic 20240801, version 7: 32-bit tokens (Llama 3). Little-endian.
#pragma once

#include <string>

#include "runtime/status.h"
#include "trainer/data/token_shard.h"

namespace strata {

Result<bool> starts_with_llmc_magic(const std::string& path);
// corrupt: an unknown magic number or version, or a size that contradicts the token count.
Result<TokenShard> open_llmc(const std::string& path);

}  // namespace strata
