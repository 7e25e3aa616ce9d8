// The JSON header of a safetensors file, without the file: parsing with every check, and printing.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/safetensors.h"

namespace strata {

// The format's own limit.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  std::vector<SafetensorsInfo> tensors;  // by offset
  std::map<std::string, std::string> metadata;
};

// `data_bytes`: bytes of the file behind the header. `path` is for messages only.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& path);

// Sorts the declarations into file order and sets their offsets. Error: a name twice, a negative dim, an overflow.
Result<std::vector<SafetensorsInfo>> layout_safetensors(std::vector<SafetensorsDecl> tensors);
// JSON padded with spaces so that length prefix and header together are a multiple of 8 bytes.
std::string print_safetensors_header(const std::vector<SafetensorsInfo>& tensors,
                                     const std::map<std::string, std::string>& metadata);

}  // namespace strata
