// Reads the files that tests/oracle/vector_file.py wrote, which says what is in them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata::vector_file {

struct Entry {
  std::int32_t dtype = 0;
  std::vector<std::int64_t> dims;
  std::vector<char> data;

  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), data.data(), values.size() * sizeof(T));
    return values;
  }
};

class File {
 public:
  explicit File(const std::string& name) {
    std::ifstream in(std::string(STRATA_SOURCE_DIR) + "/tests/optim/vectors/" + name, std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(in), {});
    STRATA_CHECK(bytes.size() > 12 && std::memcmp(bytes.data(), "STRV", 4) == 0, name + " is no vector file");
    std::size_t at = 4;
    const auto take = [&](void* to, std::size_t n) {
      STRATA_CHECK(at + n <= bytes.size(), name + " is truncated");
      if (n > 0) std::memcpy(to, bytes.data() + at, n);
      at += n;
    };
    const auto integer = [&] {
      std::int32_t value = 0;
      take(&value, sizeof value);
      return value;
    };
    STRATA_CHECK(integer() == 1, name + " has another version");
    for (int left = integer(); left > 0; --left) {
      std::string key(static_cast<std::size_t>(integer()), ' ');
      take(key.data(), key.size());
      Entry& entry = entries_[key];
      entry.dtype = integer();
      entry.dims.resize(static_cast<std::size_t>(integer()));
      take(entry.dims.data(), entry.dims.size() * sizeof(std::int64_t));
      static constexpr std::size_t kBytes[] = {4, 8, 8, 1, 1};
      std::size_t n = kBytes[entry.dtype];
      for (const std::int64_t dim : entry.dims) n *= static_cast<std::size_t>(dim);
      entry.data.resize(n);
      take(entry.data.data(), n);
    }
    STRATA_CHECK(at == bytes.size(), name + " has bytes after its last entry");
  }

  const std::map<std::string, Entry>& entries() const { return entries_; }
  bool has(const std::string& name) const { return entries_.contains(name); }
  const Entry& operator[](const std::string& name) const {
    const auto found = entries_.find(name);
    STRATA_CHECK(found != entries_.end(), "the vector file has no " + name);
    return found->second;
  }
  std::vector<float> floats(const std::string& name) const { return of<float>(name, 0); }
  std::vector<std::int64_t> integers(const std::string& name) const { return of<std::int64_t>(name, 2); }
  std::string text(const std::string& name) const { return {(*this)[name].data.begin(), (*this)[name].data.end()}; }
  double number(const std::string& name) const {
    const Entry& entry = (*this)[name];
    if (entry.dtype == 0) return static_cast<double>(entry.as<float>().at(0));
    return entry.dtype == 1 ? entry.as<double>().at(0) : static_cast<double>(entry.as<std::int64_t>().at(0));
  }
  std::vector<double> learning_rates(const std::string& which) const { return of<double>(which + "/lr", 1); }
  // The gradient of step t of a case.
  std::vector<float> gradient(const std::string& which, std::int64_t t) const {
    return floats("gradients/" + text(which + "/gradients") + "/step" + std::to_string(t));
  }
  // The cases whose names begin with family/.
  std::vector<std::string> cases(const std::string& family) const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries_) {
      if (name.starts_with(family + "/") && name.ends_with("/w0")) names.push_back(name.substr(0, name.size() - 3));
    }
    STRATA_CHECK(!names.empty(), "the vector file has no case " + family);
    return names;
  }

 private:
  template <class T>
  std::vector<T> of(const std::string& name, std::int32_t dtype) const {
    const Entry& entry = (*this)[name];
    STRATA_CHECK(entry.dtype == dtype, name + " is of another type");
    return entry.as<T>();
  }
  std::map<std::string, Entry> entries_;
};

// The largest difference of a quantity over a run, relative to the largest value that its element has had: what cancellation (a
// moment or a weight that passes through zero) cannot inflate. row_floor: at least this part of the largest in the element's
// row counts as the element's own, for a sum of products that cancels keeps the rounding of its terms (check_vectors.py).
class Difference {
 public:
  explicit Difference(std::size_t row = 0, double row_floor = 0.0) : row_(row), row_floor_(row_floor) {}
  // Values that the file does not have.
  void track(const std::vector<float>& values) {
    scale_.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) scale_[i] = std::max(scale_[i], std::abs(static_cast<double>(values[i])));
  }
  void compare(const std::vector<float>& got, const std::vector<float>& want) {
    STRATA_CHECK(got.size() == want.size(), "the file has another size");
    track(want);
    for (std::size_t i = 0; i < got.size(); ++i) {
      double scale = scale_[i];
      if (row_ > 0) {
        const auto begin = scale_.begin() + static_cast<std::ptrdiff_t>(i / row_ * row_);
        scale = std::max(scale, row_floor_ * *std::max_element(begin, begin + static_cast<std::ptrdiff_t>(row_)));
      }
      const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
      if (!(difference <= 0x1p-149)) worst_ = std::isnan(difference) ? difference : std::max(worst_, difference / scale);
    }
  }
  double worst() const { return worst_; }

 private:
  std::size_t row_;
  double row_floor_;
  std::vector<double> scale_;
  double worst_ = 0.0;
};

}  // namespace strata::vector_file
