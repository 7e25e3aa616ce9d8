#include "trainer/data/llmc.h"

#include <array>
#include <cstring>

namespace strata {
namespace {

struct Variant {
  std::uint32_t magic;
  std::uint32_t version;
  TokenType type;
};
constexpr std::array<Variant, 2> kVariants = {{{20240520, 1, TokenType::u16}, {20240801, 7, TokenType::u32}}};
constexpr std::uint64_t kHeaderBytes = 1024;

const Variant* variant_of(std::uint32_t magic) {
  for (const Variant& variant : kVariants)
    if (variant.magic == magic) return &variant;
  return nullptr;
}

}  // namespace

Result<bool> starts_with_llmc_magic(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const auto file, InputFile::open(path));
  std::uint32_t magic = 0;
  if (file->size() < sizeof(magic)) return false;
  STRATA_RETURN_IF_ERROR(file->read(0, std::as_writable_bytes(std::span(&magic, 1))));
  return variant_of(magic) != nullptr;
}

Result<TokenShard> open_llmc(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const auto file, InputFile::open(path));
  if (file->size() < kHeaderBytes) {
    return corrupt_file(path, 0, "llm.c header", std::to_string(kHeaderBytes) + " bytes",
                        "a file of " + std::to_string(file->size()) + " bytes");
  }
  std::array<std::uint32_t, 3> header{};
  STRATA_RETURN_IF_ERROR(file->read(0, std::as_writable_bytes(std::span(header))));
  const auto [magic, version, count] = header;
  const Variant* variant = variant_of(magic);
  if (variant == nullptr) return corrupt_file(path, 0, "llm.c magic number", "20240520 or 20240801", std::to_string(magic));
  if (version != variant->version) {
    return corrupt_file(path, 4, "llm.c version", std::to_string(variant->version), std::to_string(version));
  }
  const std::uint64_t size = kHeaderBytes + std::uint64_t{count} * size_of(variant->type);
  if (size != file->size()) {
    return corrupt_file(path, 8, "count of " + std::to_string(count) + " tokens of type " + to_string(variant->type),
                        "a file of " + std::to_string(size) + " bytes", std::to_string(file->size()));
  }
  TokenShard shard{.path = path,
                   .format = TokenFormat::llmc,
                   .type = variant->type,
                   .tokens = count,
                   .sequences = {},
                   .documents = {},
                   .runs = {}};
  shard.runs.push_back({file, kHeaderBytes, count, variant->type});
  return shard;
}

}  // namespace strata
