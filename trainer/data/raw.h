// Any file as tokens of the byte tokenizer.
#pragma once

#include <string>

#include "runtime/status.h"
#include "trainer/data/token_shard.h"

namespace strata {

// The file is one document: its bytes, then the end-of-document token (id 256).
Result<TokenShard> open_raw(const std::string& path);

}  // namespace strata
