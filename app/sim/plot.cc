#include "app/sim/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace baton {
namespace {

constexpr double kWidth = 520, kHeight = 210, kLeft = 52, kRight = 12, kTop = 10, kBottom = 34;
constexpr const char* kColors[] = {"c1", "c2", "c3", "c4", "c5"};

struct Axis {
  double low = 0, high = 1, from = 0, to = 1;  // values, pixels
  bool log = false;
  double At(double value) const {
    if (log) return from + (std::log(std::max(value, low)) - std::log(low)) / (std::log(high) - std::log(low)) * (to - from);
    return from + (value - low) / (high - low) * (to - from);
  }
};

/// A step of 1, 2 or 5 times a power of ten that cuts `span` into about five.
double NiceStep(double span) {
  const double raw = span / 5, power = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / power;
  return power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
}

std::vector<double> Ticks(const Axis& axis) {
  std::vector<double> ticks;
  if (axis.log) {
    const bool few = std::log10(axis.high / axis.low) < 2.5;
    for (double power = std::pow(10, std::floor(std::log10(axis.low))); power <= axis.high * 1.0001; power *= 10) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double value = power * digit;
        if ((few || digit == 1) && value >= axis.low * 0.9999 && value <= axis.high * 1.0001) ticks.push_back(value);
      }
    }
    return ticks;
  }
  const double step = NiceStep(axis.high - axis.low);
  for (double value = std::ceil(axis.low / step) * step; value <= axis.high + step * 1e-6; value += step) ticks.push_back(std::abs(value) < step * 1e-6 ? 0 : value);
  return ticks;
}

void Fit(const Plot& plot, Axis& x, Axis& y) {
  x = {.low = 1e300, .high = -1e300, .from = kLeft, .to = kWidth - kRight, .log = plot.log_x};
  y = {.low = 0, .high = plot.y_max, .from = kHeight - kBottom, .to = kTop};
  for (const PlotLine& line : plot.lines) {
    for (const auto& [px, py] : line.points) {
      if (plot.log_x && px <= 0) continue;
      x.low = std::min(x.low, px);
      x.high = std::max(x.high, px);
      if (plot.y_max == 0) y.high = std::max(y.high, py);
    }
  }
  if (x.low > x.high) x.low = plot.log_x ? 1 : 0, x.high = plot.log_x ? 10 : 1;
  if (x.high <= x.low) x.high = plot.log_x ? x.low * 2 : x.low + std::max(1.0, std::abs(x.low) * 1e-6);
  if (y.high <= 0) y.high = 1;
  if (plot.y_max == 0) {
    const double step = NiceStep(y.high);
    y.high = std::ceil(y.high / step) * step;
  }
}

std::string Grid(const Plot& plot, const Axis& x, const Axis& y) {
  std::string svg;
  for (const double value : Ticks(y)) {
    const double at = y.At(value);
    svg += fmt::format("<line class=grid x1={:.1f} y1={:.1f} x2={:.1f} y2={:.1f} />", kLeft, at, kWidth - kRight, at);
    svg += fmt::format("<text x={:.1f} y={:.1f} text-anchor=end>{}</text>", kLeft - 5, at + 3.5, ShortNumber(value));
  }
  for (const double value : Ticks(x)) {
    const double at = x.At(value);
    svg += fmt::format("<line class=grid x1={:.1f} y1={:.1f} x2={:.1f} y2={:.1f} />", at, kTop, at, kHeight - kBottom);
    svg += fmt::format("<text x={:.1f} y={:.1f} text-anchor=middle>{}</text>", at, kHeight - kBottom + 13, ShortNumber(value));
  }
  for (const double value : plot.marks_x) {
    if (value < x.low || value > x.high) continue;
    const double at = x.At(value);
    svg += fmt::format("<line class=mark x1={:.1f} y1={:.1f} x2={:.1f} y2={:.1f} />", at, kTop, at, kHeight - kBottom);
  }
  svg += fmt::format("<text x={:.1f} y={:.1f} text-anchor=end>{}</text>", kWidth - kRight, kHeight - 4, EscapeHtml(plot.x_label));
  return svg;
}

}  // namespace

std::string ShortNumber(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.3g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.3g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.3g}k", value / 1e3);
  if (size >= 100) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

std::string EscapeHtml(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string DrawPlot(const Plot& plot) {
  Axis x, y;
  Fit(plot, x, y);
  std::string svg = fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=img>", kWidth, kHeight) + Grid(plot, x, y);
  std::string legend;
  for (size_t i = 0; i < plot.lines.size() && i < std::size(kColors); ++i) {
    const PlotLine& line = plot.lines[i];
    if (line.points.empty()) continue;
    svg += fmt::format("<polyline class={} points=\"", kColors[i]);
    for (const auto& [px, py] : line.points) {
      if (plot.log_x && px <= 0) continue;
      svg += fmt::format("{:.1f},{:.1f} ", x.At(px), y.At(std::min(py, y.high)));
    }
    svg += "\"/>";
    legend += fmt::format("<span class={}>{}</span>", kColors[i], EscapeHtml(line.name));
  }
  return fmt::format("<figure><figcaption>{} <small>{}</small></figcaption>{}</svg><div class=legend>{}</div></figure>\n", EscapeHtml(plot.title),
                     EscapeHtml(plot.y_label), svg, legend);
}

}  // namespace baton
