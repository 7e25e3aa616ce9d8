// The built-in tokenizer: a token is a byte; one more marks the end of a document.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

class ByteTokenizer {
 public:
  static constexpr std::int32_t kEndOfText = 256;
  static constexpr std::int64_t kVocabSize = 257;

  static std::vector<std::int32_t> encode(std::string_view text);
  // The bytes of the tokens; what is not a byte (the end of text, the padding of a larger vocabulary) becomes U+FFFD, the
  // replacement character. Need not be valid UTF-8.
  static std::string decode(std::span<const std::int32_t> tokens);
};

}  // namespace strata
