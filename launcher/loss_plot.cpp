#include "launcher/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

namespace strata {
namespace {

constexpr int kLabelWidth = 7;
constexpr int kCellColumns = 2;  // dots of a braille character
constexpr int kCellRows = 4;
constexpr const char* kTrainColor = "\x1b[36m";
constexpr const char* kValidationColor = "\x1b[33m";
constexpr const char* kNoColor = "\x1b[0m";

std::optional<double> number(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

struct Range {
  double low;
  double high;
  double fraction(double value) const { return (value - low) / (high - low); }
};

Range range_of(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (*low < *high) return {*low, *high};
  return {*low - 0.5, *high + 0.5};  // a flat curve lies in the middle
}

// Dots of the training curve and marks of the validation points.
class Canvas {
 public:
  Canvas(int columns, int rows)
      : columns_(columns), rows_(rows), dots_(static_cast<std::size_t>(columns * rows), 0), marks_(dots_.size(), false) {}
  int dot_columns() const { return columns_ * kCellColumns; }
  int dot_rows() const { return rows_ * kCellRows; }

  // y counts from below.
  void dot(int x, int y) {
    static constexpr std::uint8_t kBits[kCellRows][kCellColumns] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    const int from_top = dot_rows() - 1 - y;
    dots_[cell(x, from_top)] |= kBits[from_top % kCellRows][x % kCellColumns];
  }
  void mark(int x, int y) { marks_[cell(x, dot_rows() - 1 - y)] = true; }

  std::string row(int r, const PlotStyle& style) const {
    std::string text;
    for (int c = 0; c < columns_; ++c) {
      const auto i = static_cast<std::size_t>(r) * static_cast<std::size_t>(columns_) + static_cast<std::size_t>(c);
      if (marks_[i]) {
        text += colored(kValidationColor, "o", style);
      } else if (dots_[i] == 0) {
        text += ' ';
      } else {
        text += colored(kTrainColor, style.unicode ? braille(dots_[i]) : ".", style);
      }
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  }
  static std::string colored(const char* color, const std::string& text, const PlotStyle& style) {
    return style.color ? color + text + kNoColor : text;
  }

 private:
  std::size_t cell(int x, int from_top) const {
    return static_cast<std::size_t>(from_top / kCellRows) * static_cast<std::size_t>(columns_) +
           static_cast<std::size_t>(x / kCellColumns);
  }
  static std::string braille(std::uint8_t dots) {  // U+2800 + dots, in UTF-8
    return {'\xe2', static_cast<char>(0xa0 | dots >> 6), static_cast<char>(0x80 | (dots & 0x3f))};
  }

  int columns_;
  int rows_;
  std::vector<std::uint8_t> dots_;
  std::vector<bool> marks_;
};

int place(double fraction, int count) {
  return std::clamp(static_cast<int>(std::lround(fraction * (count - 1))), 0, count - 1);
}

void draw_train(const LossCurves& curves, const Range& steps, const Range& losses, Canvas& canvas) {
  std::map<int, std::pair<double, int>> columns;  // dot column -> sum of losses, how many
  for (const auto& [step, loss] : curves.train) {
    auto& [sum, count] = columns[place(steps.fraction(step), canvas.dot_columns())];
    sum += loss;
    ++count;
  }
  std::optional<std::pair<int, int>> previous;
  for (const auto& [x, column] : columns) {
    const int y = place(losses.fraction(column.first / column.second), canvas.dot_rows());
    const auto [x0, y0] = previous.value_or(std::pair(x, y));
    const int length = std::max({x - x0, std::abs(y - y0), 1});
    for (int i = 0; i <= length; ++i) {
      const double t = static_cast<double>(i) / length;
      canvas.dot(static_cast<int>(std::lround(x0 + t * (x - x0))), static_cast<int>(std::lround(y0 + t * (y - y0))));
    }
    previous = {x, y};
  }
}

// "0        250        500 step" under the axis.
std::string step_labels(const Range& steps, int columns) {
  std::string line(static_cast<std::size_t>(columns), ' ');
  std::string previous;
  for (const double fraction : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    const std::string label = fmt::format("{:.0f}", steps.low + fraction * (steps.high - steps.low));
    if (label == previous) continue;  // few steps
    previous = label;
    const int width = static_cast<int>(label.size());
    const int at = std::clamp(place(fraction, columns) - width / 2, 0, columns - width);
    line.replace(static_cast<std::size_t>(at), label.size(), label);
  }
  return line;
}

std::string legend(const LossCurves& curves, const PlotStyle& style) {
  std::string text;
  if (!curves.train.empty()) {
    text +=
        fmt::format("  {} train loss (last {:.3f})", Canvas::colored(kTrainColor, style.unicode ? "\u2812\u2812" : "..", style),
                    curves.train.rbegin()->second);
  }
  if (!curves.validation.empty()) {
    text += fmt::format("  {} validation loss (last {:.3f})", Canvas::colored(kValidationColor, "o", style),
                        curves.validation.rbegin()->second);
  }
  return text;
}

}  // namespace

Result<LossCurves> read_loss_curves(const std::string& path) {
  std::error_code ignored;
  const std::string file = std::filesystem::is_directory(path, ignored) ? path + "/metrics.jsonl" : path;
  std::ifstream in(file);
  if (!in) return Status(Code::not_found, file + ": cannot be opened; a run writes metrics.jsonl into its folder");
  LossCurves curves;
  for (std::string line; std::getline(in, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    const auto step = number(object, "step");
    if (!step) continue;
    if (const auto loss = number(object, "loss")) curves.train[*step] = *loss;
    if (const auto loss = number(object, "validation_loss")) curves.validation[*step] = *loss;
  }
  if (curves.train.empty() && curves.validation.empty()) {
    return Status(Code::corrupt, file + ": no line has a \"step\" and a \"loss\" or \"validation_loss\"");
  }
  return curves;
}

std::string draw_loss_curves(const LossCurves& curves, const PlotStyle& style) {
  STRATA_CHECK(!curves.train.empty() || !curves.validation.empty(), "a plot needs a point");
  std::vector<double> steps;
  std::vector<double> losses;
  for (const auto* curve : {&curves.train, &curves.validation}) {
    for (const auto& [step, loss] : *curve) {
      steps.push_back(step);
      losses.push_back(loss);
    }
  }
  const Range step_range = range_of(steps);
  const Range loss_range = range_of(losses);
  const int columns = std::max(style.width, 40) - kLabelWidth - 2;
  const int rows = std::max(style.height, 4);
  Canvas canvas(columns, rows);
  draw_train(curves, step_range, loss_range, canvas);
  for (const auto& [step, loss] : curves.validation) {
    canvas.mark(place(step_range.fraction(step), canvas.dot_columns()), place(loss_range.fraction(loss), canvas.dot_rows()));
  }
  std::string text = fmt::format("{:>{}}\n", "loss", kLabelWidth);
  for (int r = 0; r < rows; ++r) {
    const bool labelled = r % 4 == 0 || r == rows - 1;
    const double value = loss_range.high - (loss_range.high - loss_range.low) * r / (rows - 1);
    const std::string label = labelled ? fmt::format("{:.3f}", value) : "";
    text += fmt::format("{:>{}} {}{}\n", label, kLabelWidth, labelled ? '+' : '|', canvas.row(r, style));
  }
  const std::string indent(kLabelWidth + 1, ' ');
  text += indent + '+' + std::string(static_cast<std::size_t>(columns), '-') + '\n';
  text += indent + ' ' + step_labels(step_range, columns) + '\n';
  return text + "   step  " + legend(curves, style) + '\n';
}

}  // namespace strata
