// SHA-256 (FIPS 180-4), incremental, by OpenSSL.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace strata {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void add(std::span<const std::byte> bytes);
  std::string hex();  // of everything added; ends the computation

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
