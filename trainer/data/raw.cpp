#include "trainer/data/raw.h"

namespace strata {

Result<TokenShard> open_raw(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const auto file, InputFile::open(path));
  const std::uint64_t bytes = file->size();
  TokenShard shard{.path = path,
                   .format = TokenFormat::bytes,
                   .type = TokenType::u8,
                   .tokens = bytes + 1,
                   .sequences = 1,
                   .documents = 1,
                   .runs = {}};
  shard.runs.push_back({file, 0, bytes, TokenType::u8});
  shard.runs.push_back({nullptr, 0, 1, TokenType::u8});
  return shard;
}

}  // namespace strata
