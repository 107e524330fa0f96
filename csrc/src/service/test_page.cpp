// /test: what is decided about a test and why, from the reading that `pygrade serve --test` wrote. It has no script.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "service/impl.hpp"
#include "util/files.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
constexpr std::string_view reading_format = "pygrade.test 1";
constexpr const char* test_head = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="refresh" content="60">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>pygrade test</title><style>
:root{color-scheme:light dark}body{max-width:60em;margin:2em auto;padding:0 1em;font:16px/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}
h1{font-size:2.4em;margin:0}h2{font-size:1.1em;margin:2em 0 .3em}.alarm{border-left:4px solid #c33;padding-left:.7em;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}.decides{font-weight:700}svg{display:block;min-width:12em}
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-bottom:1px solid #8884;font-weight:inherit}
pre{overflow-x:auto;padding:.7em;border:1px solid #8884}line{stroke:GrayText}rect,circle{fill:LinkText}
</style></head><body><main>
)";

// HTML, which plain text becomes by being escaped.
struct Html {
  Html(std::string_view plain) {
    for (const char c : plain)
      if (std::string_view("&<>\"'").find(c) == std::string_view::npos)
        text += c;
      else
        text.append("&#").append(std::to_string(static_cast<int>(c))).append(";");
  }
  Html(const std::string& plain) : Html(std::string_view(plain)) {}
  Html(const char* plain) : Html(std::string_view(plain)) {}
  std::string text;
};

struct TableRow {
  std::vector<Html> cells;
  bool decides = false;
};

void write_table(std::string& out, const Html& title, std::initializer_list<const char*> names,
                 const std::vector<TableRow>& rows) {
  if (rows.empty()) return;
  out.append("<h2>").append(title.text).append("</h2><div class=\"scroll\" tabindex=\"0\"><table><tr>");
  for (const char* name : names) out.append("<th scope=\"col\">").append(name).append("</th>");
  for (const TableRow& row : rows) {
    out += row.decides ? "<tr class=\"decides\">" : "<tr>";
    for (std::size_t i = 0; i < row.cells.size(); ++i)
      out.append(i == 0 ? "<th scope=\"row\">" : "<td>").append(row.cells[i].text).append(i == 0 ? "</th>" : "</td>");
    out += "</tr>\n";
  }
  out += "</table></div>\n";
}

struct Interval {  // NaN: unknown
  explicit Interval(const Json& record) {
    for (const auto& [name, number] : {std::pair("value", &value), {"low", &low}, {"high", &high}})
      *number = record.at(name).type == Json::Type::null ? NAN : record.finite_at(name);
  }
  double reach() const { return std::max(std::fabs(low), std::fabs(high)); }
  std::string text() const {
    if (!std::isfinite(value)) return "n/a";
    char text[1024];  // a double has 309 digits before the point
    const int size = std::snprintf(text, sizeof text, "%+.2f %%", 100 * value);
    if (!std::isfinite(low + high)) return text;
    std::snprintf(text + size, sizeof text - static_cast<std::size_t>(size), " (%.2f to %.2f)", 100 * low, 100 * high);
    return text;
  }
  // The text over a bar on an axis from -scale to scale, cut at its ends.
  Html drawn(double scale) const {
    if (!std::isfinite(low + value + high)) return text();
    const auto place = [&](double number) { return 100 + 100 * std::clamp(number / std::max(scale, 1e-9), -1.0, 1.0); };
    char bar[256];
    std::snprintf(bar, sizeof bar,
                  "<svg width=\"200\" height=\"12\" aria-hidden=\"true\"><line x1=\"100\" x2=\"100\" y2=\"12\"/>"
                  "<rect x=\"%.1f\" y=\"4\" width=\"%.1f\" height=\"4\"/><circle cx=\"%.1f\" cy=\"6\" r=\"5\"/></svg>",
                  place(low), place(high) - place(low), place(value));
    Html both = text();
    both.text += bar;
    return both;
  }
  double value, low, high;
};

// The readings of an arm in value, of which one decides, and that one's of the tasks.
void write_readings(const std::string& arm, const Json& record, const std::string& estimator, std::string& out) {
  const Json& readings = record.object_at("readings");
  double scale = INFINITY;
  for (const Json& metrics : readings.items)
    if (const Json* value = metrics.find("value")) scale = std::fmin(scale, 4 * Interval(value->at("anytime")).reach());
  std::vector<TableRow> values, tasks;
  for (std::size_t r = 0; r < readings.keys.size(); ++r) {
    const Json& metrics = readings.items[r];
    const bool decides = readings.keys[r] == estimator;
    for (std::size_t m = 0; m < metrics.keys.size(); ++m) {
      const bool is_value = metrics.keys[m] == "value";
      if (!is_value && !decides) continue;
      const Interval fixed(metrics.items[m].at("fixed")), anytime(metrics.items[m].at("anytime"));
      (is_value ? values : tasks)
          .push_back({{is_value ? readings.keys[r] : metrics.keys[m], anytime.drawn(scale), fixed.text()},
                      is_value && decides});
    }
  }
  const auto titled = [&](const char* what) { return Html(arm + what); };
  write_table(out, titled(": lift in value by each estimator"), {"estimator", "at any time", "for one look"}, values);
  write_table(out, titled(": events of each task, by the reading that decides"),
              {"task", "at any time", "for one look"}, tasks);
}

std::string reading_page(const Json& reading, const Release& release, const ServiceConfig& config, std::int64_t now) {
  if (reading.string_at("format") != reading_format) throw JsonError("expected format " + std::string(reading_format));
  std::string out = test_head;
  const auto paragraph = [&](std::string_view kind, const Html& text) {
    out.append("<p").append(kind).append(">").append(text.text).append("</p>\n");
  };
  constexpr std::string_view alarm = " class=\"alarm\" role=\"alert\"";
  std::string action = reading.string_at("action");
  if (action.empty()) throw JsonError("action is empty");
  action[0] = static_cast<char>(action[0] & ~0x20);  // a capital
  out.append("<h1>").append(Html(action).text).append("</h1>\n");
  paragraph("", reading.string_at("reason"));
  const double age = (static_cast<double>(now) - reading.finite_at("time")) / 6e4,
               every = reading.finite_at("interval_seconds") / 60;
  if (age > 2 * every)
    paragraph(alarm, "This page is old: the log was last read " + plain_number(std::round(age)) +
                         " minutes ago. Is pygrade serve --test running?");
  for (const std::string& text : reading.strings_at("alarms")) paragraph(alarm, text);
  const Json &arms = reading.object_at("arms"), &estimators = reading.object_at("deciding");
  for (std::size_t a = 0; a < arms.keys.size(); ++a)
    write_readings(arms.keys[a], arms.items[a], estimators.string_at(arms.keys[a]), out);
  std::vector<TableRow> rows;
  const Json& facts = reading.object_at("facts");
  for (const std::string& name : facts.keys) rows.push_back({{name, facts.string_at(name)}});
  write_table(out, "What it rests on", {}, rows);
  rows.clear();
  for (std::size_t a = 0; a < release.arms.size(); ++a) {
    const Served& arm = release.arms[a];
    rows.push_back(
        {{arm.name, plain_number(100 * config.arms[a].share) + " %", joined(arm.ranking), arm.policy->version()}});
  }
  write_table(out, "What is served now", {"arm", "share", "ranks by", "policy"}, rows);
  out.append("<h2>Options after the decision</h2><p>").append(Html(reading.string_at("after")).text);
  out.append("</p><pre>").append(Html(reading.string_at("toml")).text).append("</pre></main></body></html>\n");
  return out;
}
}  // namespace

Json Service::Impl::test_reading() const {
  return Json::parse(
      text_of(OpenFile(*config.exposures / "test" / "reading.json", "; pygrade serve --test writes it").content()));
}

Response Service::Impl::test_answer(const ServiceRequest& request) const {
  if (!config.test) return error_response(404, "test", "test is false; expected pygrade serve --test");
  const bool wants_json = request.path.find("format=json") != std::string_view::npos ||
                          request.accept.find("application/json") != std::string_view::npos;
  try {
    const Json reading = test_reading();
    std::string page = reading_page(reading, *release(), config, now_ms());  // which finds what is damaged
    return wants_json ? Response{200, "application/json", json_text(reading)}
                      : Response{200, "text/html; charset=utf-8", std::move(page)};
  } catch (const ArtifactMissing& error) {
    return error_response(404, "test", error.what());
  } catch (const JsonError& error) {
    return error_response(500, "test", "test/reading.json in exposures is damaged: " + std::string(error.what()));
  }
}
}  // namespace pygrade::inline v0_2
