// A loss curve drawn with characters.
#pragma once

#include <map>
#include <string>

#include "runtime/status.h"

namespace strata {

struct LossCurves {
  std::map<double, double> train;  // step -> loss
  std::map<double, double> validation;
};

// Reads "step", "loss" and "validation_loss" from a metrics.jsonl (or from the one in a run folder). Of a step that was written
// twice (a resumed run) the last counts; an unfinished last line and values that are not finite numbers are left out.
// not_found: no such file; corrupt: nothing to draw in it.
Result<LossCurves> read_loss_curves(const std::string& path);

struct PlotStyle {
  int width = 80;       // of the whole, in characters; at least 40 are used
  int height = 16;      // of the area between the axes
  bool unicode = true;  // braille dots; else ASCII
  bool color = false;   // ANSI escapes
};

// Train loss, averaged over the steps of a column, as a line; validation loss as points; axes with numbers; a legend with the
// last values. Ends with a line end. At least one curve has a point.
std::string draw_loss_curves(const LossCurves& curves, const PlotStyle& style);

}  // namespace strata
