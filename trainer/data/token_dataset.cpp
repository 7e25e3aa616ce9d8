#include "trainer/data/token_dataset.h"

#include "runtime/rng.h"

namespace strata {

TokenSource::TokenSource(TokenStream stream, const TokenSourceOptions& options, std::int64_t vocab_size)
    : stream_(std::move(stream)),
      sequence_length_(static_cast<std::uint64_t>(options.sequence_length)),
      seed_(options.seed),
      vocab_limit_(options.vocab_size),
      vocab_size_(vocab_size),
      samples_((stream_.size() - 1) / sequence_length_) {}

Result<std::unique_ptr<TokenSource>> TokenSource::open(const TokenSourceOptions& options) {
  if (options.sequence_length < 1) return Status(Code::invalid_config, "the sequence length must be at least 1");
  STRATA_ASSIGN_OR_RETURN(TokenStream stream, TokenStream::open(options.paths, options.format));
  const std::uint64_t needed = static_cast<std::uint64_t>(options.sequence_length) + 1;
  if (stream.size() < needed) {
    return Status(Code::invalid_config, options.paths.front() + (options.paths.size() > 1 ? " and the other data files" : "") +
                                            ": " + std::to_string(stream.size()) + " tokens; one sample of sequence length " +
                                            std::to_string(options.sequence_length) + " needs " + std::to_string(needed) +
                                            " (one more, for the last target)");
  }
  std::int64_t vocab_size = 0;
  if (stream.scan_bytes() <= kMaxScanBytes) {
    STRATA_ASSIGN_OR_RETURN(vocab_size, stream.scan_vocab_size());
  }
  return std::unique_ptr<TokenSource>(new TokenSource(std::move(stream), options, vocab_size));
}

Status TokenSource::sample(std::uint64_t k, std::span<std::int32_t> out) const {
  STRATA_CHECK(out.size() == sequence_length_ + 1, "a sample has one token more than the sequence length");
  const std::uint64_t index = Permutation(samples_, seed_, k / samples_)(k % samples_);
  const std::uint64_t first = index * sequence_length_;
  STRATA_RETURN_IF_ERROR(stream_.read(first, out));
  if (vocab_limit_ == 0) return {};
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] < vocab_limit_) continue;
    return {Code::corrupt, stream_.where(first + i) + ": token " + std::to_string(out[i]) +
                               " is outside the model's vocabulary of " + std::to_string(vocab_limit_)};
  }
  return {};
}

}  // namespace strata
