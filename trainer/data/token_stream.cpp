#include "trainer/data/token_stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "trainer/data/byte_tokenizer.h"

namespace strata {
namespace {

constexpr std::size_t kChunkBytes = 16384;

// The index of the first token outside [0, 2^31), or out.size().
template <class T>
std::size_t convert(const std::byte* bytes, std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    if (static_cast<std::uint64_t>(value) > std::numeric_limits<std::int32_t>::max()) return i;  // below 0 too
    out[i] = static_cast<std::int32_t>(value);
  }
  return out.size();
}

std::size_t convert_from(TokenType type, const std::byte* bytes, std::span<std::int32_t> out) {
  switch (type) {
    case TokenType::u8: return convert<std::uint8_t>(bytes, out);
    case TokenType::i8: return convert<std::int8_t>(bytes, out);
    case TokenType::u16: return convert<std::uint16_t>(bytes, out);
    case TokenType::i16: return convert<std::int16_t>(bytes, out);
    case TokenType::u32: return convert<std::uint32_t>(bytes, out);
    case TokenType::i32: return convert<std::int32_t>(bytes, out);
    case TokenType::i64: return convert<std::int64_t>(bytes, out);
  }
  return 0;
}

// Tokens [first, first + out.size()) of the run.
Status read_run(const TokenRun& run, std::uint64_t first, std::span<std::int32_t> out) {
  if (run.file == nullptr) {
    std::fill(out.begin(), out.end(), ByteTokenizer::kEndOfText);
    return {};
  }
  const std::size_t width = size_of(run.type);
  std::array<std::byte, kChunkBytes> bytes;
  while (!out.empty()) {
    const std::size_t count = std::min(out.size(), kChunkBytes / width);
    const std::uint64_t offset = run.offset + first * width;
    STRATA_RETURN_IF_ERROR(run.file->read(offset, std::span(bytes).first(count * width)));
    const std::size_t valid = convert_from(run.type, bytes.data(), out.first(count));
    if (valid < count) {
      return corrupt_file(run.file->path(), offset + valid * width, std::string("token of type ") + to_string(run.type),
                          "0 to 2147483647", "a value outside");
    }
    first += count;
    out = out.subspan(count);
  }
  return {};
}

}  // namespace

TokenStream::TokenStream(std::vector<TokenShard> shards) : shards_(std::move(shards)) {
  std::uint64_t end = 0;
  for (TokenShard& shard : shards_) {
    for (TokenRun& run : shard.runs) {
      if (run.count == 0) continue;
      ends_.push_back(end += run.count);
      runs_.push_back(std::move(run));
    }
    shard.runs.clear();
  }
}

Result<TokenStream> TokenStream::open(const std::vector<std::string>& paths, TokenFormat format) {
  STRATA_ASSIGN_OR_RETURN(std::vector<TokenShard> shards, open_token_shards(paths, format));
  return TokenStream(std::move(shards));
}

std::size_t TokenStream::run_of(std::uint64_t position) const {
  return static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), position) - ends_.begin());
}

Status TokenStream::read(std::uint64_t first, std::span<std::int32_t> out) const {
  STRATA_CHECK(first <= size() && out.size() <= size() - first, "tokens past the end of the stream");
  for (std::size_t r = out.empty() ? 0 : run_of(first); !out.empty(); ++r) {
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), ends_[r] - first));
    STRATA_RETURN_IF_ERROR(read_run(runs_[r], first - begin_of(r), out.first(count)));
    first += count;
    out = out.subspan(count);
  }
  return {};
}

std::string TokenStream::where(std::uint64_t position) const {
  STRATA_CHECK(position < size(), "a token past the end of the stream");
  const std::size_t r = run_of(position);
  if (runs_[r].file == nullptr) return "end of a document";
  const std::uint64_t offset = runs_[r].offset + (position - begin_of(r)) * size_of(runs_[r].type);
  return runs_[r].file->path() + " at byte " + std::to_string(offset);
}

std::uint64_t TokenStream::scan_bytes() const {
  std::uint64_t bytes = 0;
  for (const TokenShard& shard : shards_)
    if (shard.format != TokenFormat::bytes) bytes += shard.tokens * size_of(shard.type);
  return bytes;
}

Result<std::int64_t> TokenStream::scan_vocab_size() const {
  std::int64_t vocab = 0;
  std::vector<std::int32_t> tokens(65536);
  std::uint64_t position = 0;
  for (const TokenShard& shard : shards_) {
    const std::uint64_t end = position + shard.tokens;
    if (shard.format == TokenFormat::bytes) {
      vocab = std::max(vocab, ByteTokenizer::kVocabSize);
      position = end;
    }
    while (position < end) {
      const auto part =
          std::span(tokens).first(static_cast<std::size_t>(std::min<std::uint64_t>(tokens.size(), end - position)));
      STRATA_RETURN_IF_ERROR(read(position, part));
      vocab = std::max<std::int64_t>(vocab, std::int64_t{*std::max_element(part.begin(), part.end())} + 1);
      position += part.size();
    }
  }
  return vocab;
}

}  // namespace strata
