#include "trainer/data/token_shard.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "trainer/data/llmc.h"
#include "trainer/data/megatron.h"
#include "trainer/data/raw.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

std::string without_extension(const std::string& path) {
  for (const char* extension : {".bin", ".idx"})
    if (path.ends_with(extension)) return path.substr(0, path.size() - 4);
  return path;
}

Result<std::vector<std::string>> files_in(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (!it->path().filename().string().starts_with('.') && it->is_regular_file(ignored)) files.push_back(it->path().string());
  }
  if (error) return Status(Code::io_error, folder + ": cannot list the folder: " + error.message());
  if (files.empty()) return Status(Code::not_found, folder + ": no files in this folder");
  std::sort(files.begin(), files.end());
  return files;
}

Result<std::vector<std::string>> matches_of(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> files;
  const int rc = ::glob(pattern.c_str(), 0, nullptr, &found);
  if (rc == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (rc != 0 && rc != GLOB_NOMATCH)
    return Status(Code::io_error, pattern + ": cannot be expanded (glob error " + std::to_string(rc) + ")");
  if (files.empty()) return Status(Code::not_found, pattern + ": no file matches");
  return files;
}

bool is_pattern(const std::string& path) { return path.find_first_of("*?[") != std::string::npos && !exists(path); }

bool is_megatron(const std::string& path) {
  if (path.ends_with(".idx")) return true;
  return path.ends_with(".bin") ? exists(without_extension(path) + ".idx") : !exists(path);
}

Result<TokenFormat> detect(const std::string& path) {
  if (is_megatron(path)) {
    const std::string prefix = without_extension(path);
    if (exists(prefix + ".idx") || exists(prefix + ".bin")) return TokenFormat::megatron;
    return Status(Code::not_found, path + ": no such file, folder, or prefix of a .bin and .idx pair");
  }
  STRATA_ASSIGN_OR_RETURN(const bool llmc, starts_with_llmc_magic(path));
  if (llmc) return TokenFormat::llmc;
  if (!path.ends_with(".bin")) return TokenFormat::bytes;
  return Status(Code::invalid_config, path + ": not an llm.c file (its first four bytes are no known magic number), and " +
                                          without_extension(path) + ".idx, which a Megatron file needs, does not exist; " +
                                          "for raw bytes set data.format: bytes");
}

Result<TokenShard> open_one(const std::string& path, TokenFormat format) {
  if (format == TokenFormat::automatic) {
    STRATA_ASSIGN_OR_RETURN(format, detect(path));
  }
  switch (format) {
    case TokenFormat::megatron: return open_megatron(without_extension(path));
    case TokenFormat::llmc: return open_llmc(path);
    default: return open_raw(path);
  }
}

// One path of the user as files, or prefixes where both files of a pair were found.
Result<std::vector<std::string>> expand(const std::string& path, TokenFormat format) {
  std::vector<std::string> files = {path};
  if (is_folder(path) && !exists(path + ".idx")) {
    STRATA_ASSIGN_OR_RETURN(files, files_in(path));
  } else if (is_pattern(path)) {
    STRATA_ASSIGN_OR_RETURN(files, matches_of(path));
  }
  if (files.size() == 1 || format == TokenFormat::llmc || format == TokenFormat::bytes) return files;
  for (std::string& file : files)
    if (file.ends_with(".bin") && exists(without_extension(file) + ".idx")) file = without_extension(file) + ".idx";
  std::set<std::string> seen;  // both files of a pair have become one name, and need not be neighbours
  std::erase_if(files, [&](const std::string& file) { return !seen.insert(file).second; });
  return files;
}

}  // namespace

std::size_t size_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8: return 1;
    case TokenType::u16:
    case TokenType::i16: return 2;
    case TokenType::u32:
    case TokenType::i32: return 4;
    case TokenType::i64: return 8;
  }
  return 0;
}

const char* to_string(TokenType type) {
  constexpr const char* kNames[] = {"u8", "i8", "u16", "i16", "u32", "i32", "i64"};
  return kNames[static_cast<std::size_t>(type)];
}

const char* to_string(TokenFormat format) {
  constexpr const char* kNames[] = {"auto", "megatron", "llmc", "bytes"};
  return kNames[static_cast<std::size_t>(format)];
}

Result<std::vector<TokenShard>> open_token_shards(const std::vector<std::string>& paths, TokenFormat format) {
  if (paths.empty()) return Status(Code::invalid_config, "no data files were named");
  std::vector<TokenShard> shards;
  for (const std::string& path : paths) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> files, expand(path, format));
    for (const std::string& file : files) {
      STRATA_ASSIGN_OR_RETURN(TokenShard shard, open_one(file, format));
      shards.push_back(std::move(shard));
    }
  }
  return shards;
}

}  // namespace strata
