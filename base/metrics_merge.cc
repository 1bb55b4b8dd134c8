#include "base/metrics_merge.h"

#include <algorithm>
#include <map>
#include <string_view>

namespace baton {
namespace {

struct Family {
  std::string header, samples;
};

/// `name{a="b"} 1` or `name 1` with one more label.
std::string WithLabel(std::string_view sample, const std::string& label) {
  const size_t name_end = sample.find_first_of("{ ");
  std::string out(sample.substr(0, name_end));
  out += '{' + label;
  if (sample[name_end] == '{') {
    if (sample[name_end + 1] != '}') out += ',';
    out += sample.substr(name_end + 1);
  } else {
    out += '}';
    out += sample.substr(name_end);
  }
  return out;
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string MergeMetrics(const std::vector<MetricsPage>& pages) {
  std::vector<std::string> order;
  std::map<std::string, Family> families;
  for (const MetricsPage& page : pages) {
    const std::string label = "worker=\"" + Escaped(page.worker) + '"';
    Family* family = nullptr;
    std::string current;  // its name
    bool first_seen = false;
    for (size_t begin = 0; begin < page.text.size();) {
      const size_t end = std::min(page.text.find('\n', begin), page.text.size());
      const std::string_view line = std::string_view(page.text).substr(begin, end - begin);
      begin = end + 1;
      if (line.rfind("# HELP ", 0) == 0 || line.rfind("# TYPE ", 0) == 0) {
        const std::string name(line.substr(7, line.find(' ', 7) - 7));
        if (family == nullptr || name != current) {
          current = name;
          first_seen = families.find(name) == families.end();
          if (first_seen) order.push_back(name);
          family = &families[name];
        }
        if (first_seen) family->header += std::string(line) + '\n';
      } else if (!line.empty() && line[0] != '#' && family != nullptr && line.find_first_of("{ ") != std::string_view::npos) {
        family->samples += WithLabel(line, label) + '\n';
      }
    }
  }
  std::string out;
  for (const std::string& name : order) out += families[name].header + families[name].samples;
  return out;
}

}  // namespace baton
