// Shared by the tests of nvme/: a folder that disappears, aligned buffers with known contents, engines by name.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>

#include "nvme/io_engine.h"
#include "runtime/arena.h"

namespace strata {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = ::testing::TempDir() + "/strata-nvme-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Memory that direct I/O accepts.
class Blocks {
 public:
  explicit Blocks(std::size_t bytes) : arena_(Tier::cpu, bytes + TierArena::kAlignment), size_(bytes) {
    buffer_ = arena_.allocate(bytes, Category::io, "test").value();
  }
  std::byte* data() const { return buffer_.data(); }
  std::span<std::byte> span() const { return {buffer_.data(), size_}; }
  void fill(std::uint64_t seed) {
    for (std::size_t i = 0; i < size_; ++i) data()[i] = expected(seed, i);
  }
  // Index of the first byte of [0, bytes) that fill(seed) would not have written; `bytes` if there is none.
  std::size_t first_difference(std::uint64_t seed, std::size_t bytes) const {
    for (std::size_t i = 0; i < bytes; ++i) {
      if (data()[i] != expected(seed, i)) return i;
    }
    return bytes;
  }
  static std::byte expected(std::uint64_t seed, std::size_t i) {
    const std::uint64_t x = (seed * 0x9E3779B97F4A7C15U + i + 1) * 0xBF58476D1CE4E5B9U;
    return static_cast<std::byte>(x >> 56);
  }

 private:
  TierArena arena_;
  Buffer buffer_;
  std::size_t size_;
};

inline IoEngineOptions options_of(IoEngineOptions::Kind kind, unsigned queue_depth = 4, std::size_t block_bytes = 64 << 10) {
  return {.kind = kind, .queue_depth = queue_depth, .block_bytes = block_bytes};
}

// Tests that run on every engine; `engine_` is made from small blocks, so that little data is many requests.
class EachEngine : public ::testing::TestWithParam<IoEngineOptions::Kind> {
 protected:
  void SetUp() override {
    auto engine = make_io_engine(options_of(GetParam()), nullptr);
    if (!engine.ok() && GetParam() == IoEngineOptions::Kind::io_uring) GTEST_SKIP() << engine.status().message();
    engine_ = std::move(engine).value();
  }
  std::unique_ptr<IoEngine> make(unsigned queue_depth = 4, std::size_t block_bytes = 64 << 10) const {
    return make_io_engine(options_of(GetParam(), queue_depth, block_bytes), nullptr).value();
  }
  TempFolder folder_;
  std::unique_ptr<IoEngine> engine_;
};

inline std::string engine_name(IoEngineOptions::Kind kind) {
  return kind == IoEngineOptions::Kind::io_uring ? "io_uring" : "threads";
}
inline std::string engine_of(const ::testing::TestParamInfo<IoEngineOptions::Kind>& info) { return engine_name(info.param); }

#define STRATA_FOR_EACH_ENGINE(suite)                                                                                         \
  INSTANTIATE_TEST_SUITE_P(                                                                                                   \
      Engines, suite, ::testing::Values(::strata::IoEngineOptions::Kind::io_uring, ::strata::IoEngineOptions::Kind::threads), \
      ::strata::engine_of)

// Flips one bit of a file behind everybody's back.
inline void flip_bit(const std::string& path, std::uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x04);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
  file.flush();
  if (!file) throw std::runtime_error("cannot change " + path);
}

}  // namespace strata
