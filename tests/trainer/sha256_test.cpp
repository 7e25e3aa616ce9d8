#include "trainer/checkpoint/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>

#include "runtime/status.h"

namespace strata {
namespace {

std::string sha256(const std::string& text, std::size_t piece) {
  Sha256 sha;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    sha.add(std::as_bytes(std::span(text).subspan(at, std::min(piece, text.size() - at))));
  }
  return sha.hex();
}

// FIPS 180-4 examples.
TEST(Sha256, KnownDigestsHoweverTheInputIsCut) {
  EXPECT_EQ(sha256("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  for (const std::size_t piece : {1U, 55U, 56U, 57U}) {
    EXPECT_EQ(sha256("abc", piece), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256(text, piece), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  }
  EXPECT_EQ(sha256(std::string(1000000, 'a'), 4096), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, NothingCanBeAddedAfterItsEnd) {
  Sha256 sha;
  (void)sha.hex();
  EXPECT_THROW(sha.add({}), ContractViolation);
  EXPECT_THROW((void)sha.hex(), ContractViolation);
}

}  // namespace
}  // namespace strata
