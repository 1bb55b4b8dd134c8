#include "app/sim/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "app/sim/plot.h"

namespace baton {
namespace {

constexpr const char* kStyle = R"(<style>
:root{color-scheme:light dark;--back:#fff;--text:#1d2129;--soft:#6b7280;--line:#e3e6eb;--c1:#2563eb;--c2:#ea580c;--c3:#16a34a;--c4:#9333ea;--c5:#64748b}
@media(prefers-color-scheme:dark){:root{--back:#14171c;--text:#e6e8ec;--soft:#98a1ae;--line:#2b313a;--c1:#60a5fa;--c2:#fb923c;--c3:#4ade80;--c4:#c084fc;--c5:#94a3b8}}
body{margin:0 auto;max-width:1120px;padding:24px;background:var(--back);color:var(--text);font:14px/1.45 system-ui,sans-serif}
h1{font-size:20px;margin:0 0 2px}h2{font-size:15px;margin:26px 0 8px}p{margin:0 0 14px;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:10px}
.card{border:1px solid var(--line);border-radius:8px;padding:8px 12px}.card b{display:block;font-size:17px;font-weight:600}.card span{color:var(--soft);font-size:12px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:14px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:10px 12px}figcaption{font-weight:600;margin-bottom:4px}small{font-weight:400;color:var(--soft)}
svg{width:100%;height:auto;display:block}svg text{font-size:10px;fill:var(--soft)}.grid{stroke:var(--line)}.mark{stroke:var(--c2);stroke-dasharray:3 3}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}
polyline.c1{stroke:var(--c1)}polyline.c2{stroke:var(--c2)}polyline.c3{stroke:var(--c3)}polyline.c4{stroke:var(--c4)}polyline.c5{stroke:var(--c5)}
.legend{font-size:12px;min-height:17px}
.legend span{margin-right:14px}.legend span:before{content:"";display:inline-block;width:14px;height:3px;margin:0 5px 3px 0;background:currentColor}
.legend .c1{color:var(--c1)}.legend .c2{color:var(--c2)}.legend .c3{color:var(--c3)}.legend .c4{color:var(--c4)}.legend .c5{color:var(--c5)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500}
tr.best td{font-weight:600;color:var(--c3)}.bar{display:inline-block;height:9px;background:var(--c1);border-radius:2px;vertical-align:middle}
</style>)";

std::string Card(const std::string& value, const char* name) { return fmt::format("<div class=card><b>{}</b><span>{}</span></div>", EscapeHtml(value), name); }
std::string Percent(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string Seconds(double s) { return s < 1 ? ShortNumber(s * 1000) + " ms" : ShortNumber(s) + " s"; }

std::string Cards(const SimReport& r) {
  const double span = std::max(r.seconds, 1e-9);
  return "<div class=cards>" + Card(ShortNumber(static_cast<double>(r.requests)), "requests") + Card(Percent(r.good_share()), "good (within the SLO)") +
         Card(ShortNumber(static_cast<double>(r.refused)), "refused") + Card(ShortNumber(static_cast<double>(r.moved)), "moved to another worker") +
         Card(Seconds(r.ttft_s.Percentile(0.5)) + " / " + Seconds(r.ttft_s.Percentile(0.99)), "TTFT p50 / p99") +
         Card(Seconds(r.itl_s.Percentile(0.5)) + " / " + Seconds(r.itl_s.Percentile(0.99)), "ITL p50 / p99") + Card(Percent(r.hit_ratio()), "prompt tokens cached") +
         Card(ShortNumber(static_cast<double>(r.answer_tokens) / span), "answer tokens a second") + Card(Percent(r.busy_share), "engines busy") +
         Card(ShortNumber(r.goodput_per_s()), "good requests a second") + "</div>";
}

/// A line over the run's whole spans; the last one is seldom whole.
PlotLine Over(const SimReport& report, const char* name, const std::function<double(const SimSpan&)>& value) {
  PlotLine line{.name = name};
  const size_t whole = std::max<size_t>(report.spans.size(), 2) - 1;
  for (size_t i = 0; i < std::min(whole, report.spans.size()); ++i) line.points.emplace_back((static_cast<double>(i) + 0.5) * report.span_s, value(report.spans[i]));
  return line;
}

std::string Plots(const SimConfig& config, const SimReport& r) {
  std::vector<double> failures;
  for (const SimFailure& failure : config.failures) failures.push_back(failure.at_s);
  const auto rate = [&r](uint64_t SimSpan::*count) { return [&r, count](const SimSpan& span) { return static_cast<double>(span.*count) / r.span_s; }; };
  const auto mean = [](uint64_t SimSpan::*count) {
    return [count](const SimSpan& span) { return span.samples == 0 ? 0 : static_cast<double>(span.*count) / static_cast<double>(span.samples); };
  };
  const char* time = "virtual seconds";
  std::string out = "<div class=plots>";
  out += DrawPlot({.title = "Time to first token", .x_label = "seconds", .y_label = "share of requests that had it by then", .lines = {{"TTFT", r.ttft_s.Cumulative()}},
                   .log_x = true, .y_max = 1, .marks_x = {config.slo_ttft_s}});
  out += DrawPlot({.title = "Time between tokens", .x_label = "seconds", .y_label = "share of tokens", .lines = {{"ITL", r.itl_s.Cumulative()}}, .log_x = true,
                   .y_max = 1, .marks_x = {config.slo_itl_s}});
  out += DrawPlot({.title = "Requests", .x_label = time, .y_label = "a second",
                   .lines = {Over(r, "arrived", rate(&SimSpan::arrived)), Over(r, "refused", rate(&SimSpan::refused)),
                             Over(r, "first tokens", rate(&SimSpan::first_tokens)), Over(r, "moved", rate(&SimSpan::moved))}, .marks_x = failures});
  out += DrawPlot({.title = "Tokens", .x_label = time, .y_label = "a second",
                   .lines = {Over(r, "prompt", rate(&SimSpan::prompt_tokens)), Over(r, "of these cached", rate(&SimSpan::cached_tokens)),
                             Over(r, "answer", rate(&SimSpan::answer_tokens))}, .marks_x = failures});
  out += DrawPlot({.title = "Cache hits", .x_label = time, .y_label = "share of prompt tokens",
                   .lines = {Over(r, "hit ratio", [](const SimSpan& s) {
                     return s.prompt_tokens == 0 ? 0 : static_cast<double>(s.cached_tokens) / static_cast<double>(s.prompt_tokens);
                   })}, .y_max = 1, .marks_x = failures});
  out += DrawPlot({.title = "Sequences", .x_label = time, .y_label = "at once, all workers",
                   .lines = {Over(r, "running", mean(&SimSpan::running)), Over(r, "waiting", mean(&SimSpan::waiting))}, .marks_x = failures});
  return out + "</div>\n";
}

std::string Workers(const SimReport& report) {
  constexpr size_t kMost = 48;
  std::string out = "<h2>Workers</h2><table><tr><th>worker</th><th>busy</th><th></th></tr>";
  for (size_t i = 0; i < std::min(kMost, report.workers.size()); ++i) {
    const SimWorkerReport& worker = report.workers[i];
    out += fmt::format("<tr><td>{}</td><td>{}</td><td style=\"text-align:left\"><span class=bar style=\"width:{:.0f}px\"></span></td></tr>", EscapeHtml(worker.name),
                       Percent(worker.busy_share), 200 * worker.busy_share);
  }
  out += "</table>";
  if (report.workers.size() > kMost) out += fmt::format("<p>and {} more</p>", report.workers.size() - kMost);
  return out;
}

std::string SearchTable(const SimSearchResult& search) {
  std::string out = "<h2>Search</h2><table><tr><th>prefill</th><th>decode</th><th>mixed</th><th>price</th><th>good</th><th>TTFT p99</th><th>ITL p99</th><th>busy</th></tr>";
  for (const SimSearchRow& row : search.tried) {
    out += fmt::format("<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", row.meets ? " class=best" : "", row.prefill,
                       row.decode, row.mixed, ShortNumber(row.price), Percent(row.good_share), Seconds(row.ttft_p99_s), Seconds(row.itl_p99_s), Percent(row.busy_share));
  }
  return out + fmt::format("</table><p>{} cheaper splits could not do the work even if their engines never rested.</p>", search.skipped);
}

}  // namespace

std::string HtmlReport(const std::string& title, const SimConfig& config, const SimReport& report, const SimSearchResult* search) {
  const std::string what = fmt::format("{} prefill, {} decode, {} mixed workers; store of {} blocks ({} in memory), policy {}; {:.0f} virtual seconds, seed {}",
                                       config.prefill_workers, config.decode_workers, config.mixed_workers, config.store_blocks, config.store_memory_blocks,
                                       config.store_policy, report.seconds, config.seed);
  return fmt::format("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{0}</title>{1}\n<h1>{0}</h1><p>{2}</p>\n",
                     EscapeHtml(title), kStyle, EscapeHtml(what)) +
         Cards(report) + "<h2>How it went</h2>" + Plots(config, report) + (search != nullptr ? SearchTable(*search) : "") + Workers(report) + "</html>\n";
}

}  // namespace baton
