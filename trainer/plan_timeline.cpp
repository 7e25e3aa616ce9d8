#include "trainer/plan_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace strata {

std::string format_timeline(const UpdatePlan& plan, int columns) {
  if (!plan.forecast || plan.forecast->timeline.empty()) return "";
  const std::vector<TimedOperation>& timeline = plan.forecast->timeline;
  double first = 0.0, last = 0.0;
  for (const TimedOperation& t : timeline) {
    first = std::min(first, t.begin);
    last = std::max(last, t.end);
  }
  if (last <= first) return "";
  const double hair = 1e-6 * (last - first);  // so that what ends with a column is not in the next one
  const auto column = [&](double time) {
    return std::clamp(static_cast<int>((time - first) / (last - first) * columns), 0, columns - 1);
  };
  std::array<std::string, kResources> rows;
  rows.fill(std::string(static_cast<std::size_t>(columns), ' '));
  for (const TimedOperation& t : timeline) {
    if (t.end <= t.begin) continue;
    const char mark =
        t.instruction >= 0
            ? static_cast<char>('0' + plan.schedule.instructions[static_cast<std::size_t>(t.instruction)].record % 10)
            : '.';
    std::string& row = rows[static_cast<std::size_t>(t.resource)];
    for (int c = column(t.begin + hair); c <= column(t.end - hair); ++c) row[static_cast<std::size_t>(c)] = mark;
  }
  std::string text = fmt::format("{:<12}{}| norm\n", "", std::string(static_cast<std::size_t>(column(hair)), ' '));
  for (std::size_t r = 0; r < kResources; ++r)
    if (plan.forecast->busy[r] > 0.0) text += fmt::format("{:<12}{}\n", to_string(static_cast<Resource>(r)), rows[r]);
  return text +
         fmt::format("{:<12}{:.4g} s from the first operation to the last; digits: records, '.': units\n", "", last - first);
}

}  // namespace strata
