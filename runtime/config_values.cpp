// Readings of single scalars.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <span>
#include <string_view>

#include "runtime/config.h"

namespace strata {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

// The number at the start of `text`, which is then cut to what follows it.
std::optional<double> take_number(std::string_view& text) {
  text = trimmed(text);
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
  text = trimmed(text.substr(static_cast<std::size_t>(end - text.data())));
  return value;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

struct UnitScale {
  std::string_view name;  // lower case
  double scale;
};

std::optional<double> scaled(std::string_view text, std::span<const UnitScale> units) {
  const std::optional<double> value = take_number(text);
  if (!value) return std::nullopt;
  const std::string unit = lower(text);
  for (const UnitScale& u : units) {
    if (u.name != unit) continue;
    const double product = *value * u.scale;
    return std::isfinite(product) ? std::optional(product) : std::nullopt;
  }
  return std::nullopt;
}

// Digits with single underscores between them, as YAML 1.1 writes long numbers.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !std::isdigit(static_cast<unsigned char>(text[i - 1])) ||
               !std::isdigit(static_cast<unsigned char>(text[i + 1]))) {
      return std::nullopt;
    }
  }
  return out;
}

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: above it a double may not be the integer that was written
constexpr double kMaxBytes = 0x1p60;                   // as good as written above 2^53 too: to a part in 10^15

}  // namespace

std::optional<std::int64_t> parse_integer(const std::string& text) {
  const std::optional<std::string> digits = without_underscores(trimmed(text));
  if (!digits || digits->empty()) return std::nullopt;
  const char* begin = digits->data() + ((*digits)[0] == '+' ? 1 : 0);
  const char* const end = digits->data() + digits->size();
  std::int64_t value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error == std::errc{} && stop == end) return value;
  static constexpr std::array<UnitScale, 4> kUnits{{{"", 1.0}, {"ki", 0x1p10}, {"mi", 0x1p20}, {"gi", 0x1p30}}};
  const std::optional<double> number = scaled(*digits, kUnits);
  if (!number || std::floor(*number) != *number || std::abs(*number) > kExactIntegers) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::optional<double> parse_number(const std::string& text) {
  std::string_view rest = text;
  const std::optional<double> value = take_number(rest);
  return value && rest.empty() ? value : std::nullopt;
}

std::optional<std::uint64_t> parse_bytes(const std::string& text) {
  static constexpr std::array<UnitScale, 12> kUnits{{{"", 1.0},
                                                     {"b", 1.0},
                                                     {"kib", 0x1p10},
                                                     {"mib", 0x1p20},
                                                     {"gib", 0x1p30},
                                                     {"tib", 0x1p40},
                                                     {"pib", 0x1p50},
                                                     {"kb", 1e3},
                                                     {"mb", 1e6},
                                                     {"gb", 1e9},
                                                     {"tb", 1e12},
                                                     {"pb", 1e15}}};
  const std::optional<double> number = scaled(text, kUnits);
  if (!number || *number < 0.0 || *number > kMaxBytes) return std::nullopt;
  return static_cast<std::uint64_t>(*number);
}

std::optional<std::uint64_t> parse_byte_rate(const std::string& text) {
  std::string_view bytes = trimmed(text);
  if (bytes.ends_with("/s")) bytes.remove_suffix(2);
  return parse_bytes(std::string(bytes));
}

std::optional<double> parse_duration(const std::string& text) {
  static constexpr std::array<UnitScale, 6> kUnits{
      {{"", 1.0}, {"s", 1.0}, {"ms", 1e-3}, {"m", 60.0}, {"min", 60.0}, {"h", 3600.0}}};
  return scaled(text, kUnits);
}

std::string exact_bytes(std::uint64_t bytes) {
  static constexpr std::array<std::pair<std::string_view, int>, 4> kUnits{{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}};
  for (const auto& [name, shift] : kUnits) {
    if (bytes != 0 && bytes % (std::uint64_t{1} << shift) == 0) return fmt::format("{}{}", bytes >> shift, name);
  }
  return fmt::format("{}", bytes);
}

int edit_distance(const std::string& a, const std::string& b) {
  const std::size_t width = b.size() + 1;
  std::vector<int> d((a.size() + 1) * width);
  for (std::size_t i = 0; i <= a.size(); ++i) d[i * width] = static_cast<int>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) d[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      int& best = d[i * width + j];
      best = std::min(
          {d[(i - 1) * width + j] + 1, d[i * width + j - 1] + 1, d[(i - 1) * width + j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) best = std::min(best, d[(i - 2) * width + j - 2] + 1);
    }
  }
  return d.back();
}

}  // namespace strata
