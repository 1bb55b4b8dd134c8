// Line plots as SVG text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace baton {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;
};
struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotLine> lines;  // at most five
  bool log_x = false;
  double y_max = 0;             // 0: the largest value
  std::vector<double> marks_x;  // vertical lines: a limit, a failure
};

/// A number for people: 1,234 becomes 1.23k; three digits.
std::string ShortNumber(double value);
/// Text for HTML: & < > " are escaped.
std::string EscapeHtml(const std::string& text);
/// A <figure> with its caption and legend. Lines without points are left out.
std::string DrawPlot(const Plot& plot);

}  // namespace baton
