#include "launcher/plot_command.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "launcher/command.h"
#include "launcher/loss_plot.h"

namespace strata {
namespace {

int terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string locale = value;
    return locale.find("UTF-8") != std::string::npos || locale.find("utf8") != std::string::npos;
  }
  return false;
}

int plot(const std::string& path, PlotStyle style) {
  const Result<LossCurves> curves = read_loss_curves(path);
  if (!curves.ok()) return finish_command(curves.status());
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  if (style.width == 0) style.width = terminal_width();
  style.unicode = terminal && locale_is_utf8();
  style.color = terminal && std::getenv("NO_COLOR") == nullptr;
  fmt::print("{}", draw_loss_curves(*curves, style));
  return 0;
}

}  // namespace

void add_plot_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand("plot", "Draw the loss curve of a run");
  const auto path = std::make_shared<std::string>();
  const auto style = std::make_shared<PlotStyle>();
  style->width = 0;
  command->add_option("run", *path, "Run folder, or a metrics.jsonl")->required()->type_name("RUN_DIR");
  command->add_option("--width", style->width, "Characters in a line; default: the terminal's, or 80")
      ->check(CLI::Range(40, 1000));
  command->add_option("--height", style->height, "Lines between the axes")->check(CLI::Range(4, 200))->capture_default_str();
  command->callback([path, style, &action] { action = [path, style] { return plot(*path, *style); }; });
}

}  // namespace strata
