// The loss of a bigram model: what a language model must beat to have learned more than pairs of tokens.
#pragma once

#include <cstdint>

#include "runtime/status.h"
#include "trainer/data/token_stream.h"

namespace strata {

struct BigramReport {
  double loss = 0.0;          // nats per token of the validation data, given the token before
  double unigram_loss = 0.0;  // the same without the token before
  double discount = 0.0;      // chosen on the last tenth of the training data
  std::uint64_t tokens = 0;   // predicted: all of the validation data but the first
  std::int64_t vocab_size = 0;
};

// Interpolated absolute discounting (Ney, Essen and Kneser, "On structuring probabilistic dependences in stochastic language
// modelling", 1994): p(b|a) = max(n(ab) - d, 0) / n(a) + d * n1(a) / n(a) * p(b), with n1(a) the number of different tokens
// after a, and p(b) = (n(b) + 1) / (n + V). Averaged over tokens as a model's validation loss is: every token of the stream but
// the first is predicted once. invalid_config: fewer than 20 training or 2 validation tokens. unsupported: more than 2^24 ids.
Result<BigramReport> bigram_loss(const TokenStream& train, const TokenStream& validation);

}  // namespace strata
