#include "settings.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <string_view>
#include <toml++/toml.hpp>

#include "service/json_writer.hpp"

namespace pygrade::server {

namespace {

namespace fs = std::filesystem;
using detail::JsonWriter;

// Keys of [serve] that the core takes; it checks them.
constexpr std::string_view core_keys[] = {
    "store",  "deadline_ms", "max_k",     "max_candidates", "max_events",   "arms",     "salt",
    "shadow", "max_explore", "exposures", "exposure_share", "file_seconds", "feedback", "seed"};
// Keys of `pygrade serve` alone: its processes, its online learner, its traces.
constexpr std::string_view other_keys[] = {"workers", "threads", "online", "otel"};

[[noreturn]] void refuse(std::string_view name, const std::string& value, const std::string& wanted) {
  throw std::invalid_argument(std::string(name) + " is " + value + "; want " + wanted);
}

void write(const toml::node& node, std::string_view name, JsonWriter& out) {
  if (const auto* table = node.as_table()) {
    out.begin_object();
    for (const auto& [key, value] : *table) write(value, key.str(), out.key(key.str()));
    out.end_object();
  } else if (const auto* list = node.as_array()) {
    out.begin_list();
    for (const auto& value : *list) write(value, name, out);
    out.end_list();
  } else if (const auto* text = node.as_string()) {
    out.value(std::string_view(text->get()));
  } else if (const auto* integer = node.as_integer()) {
    out.value(integer->get());
  } else if (const auto* real = node.as_floating_point()) {
    out.value(real->get());
  } else if (const auto* flag = node.as_boolean()) {
    out.value(flag->get());
  } else {
    refuse(name, "a date or time", "a text, a number, true or false, a list or a table");
  }
}

double number_of(std::string_view name, const std::string& text, double low, double high) {
  double value = 0.0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || !(value >= low && value <= high)) {
    char limits[64];
    std::snprintf(limits, sizeof limits, "a number from %g to %g", low, high);
    refuse(name, "'" + text + "'", limits);
  }
  return value;
}

int whole_of(std::string_view name, const std::string& text, double low, double high) {
  const double value = number_of(name, text, low, high);
  if (value != std::floor(value)) refuse(name, "'" + text + "'", "a whole number");
  return static_cast<int>(value);
}

fs::path file_of(std::string_view name, const std::string& text) {
  if (!fs::is_regular_file(text)) refuse(name, text, "a file");
  return text;
}

// Sets the option of this name; false if there is none.
bool set(Settings& settings, std::string_view name, const std::string& text) {
  if (name == "host") {
    settings.host = text;
  } else if (name == "port") {
    settings.port = whole_of(name, text, 0, 65'535);
  } else if (name == "connections") {
    settings.connections = whole_of(name, text, 1, 65'536);
  } else if (name == "max_body_bytes") {
    settings.max_body_bytes = static_cast<std::size_t>(whole_of(name, text, 1024, 1 << 30));
  } else if (name == "token_file") {
    settings.token_file = file_of(name, text);
  } else if (name == "tls_cert") {
    settings.tls_cert = file_of(name, text);
  } else if (name == "tls_key") {
    settings.tls_key = file_of(name, text);
  } else if (name == "console") {
    settings.console = file_of(name, text);
  } else if (name == "drain_seconds") {
    settings.drain_seconds = number_of(name, text, 0, 3600);
  } else if (name == "refresh_seconds") {
    settings.refresh_seconds = number_of(name, text, 0.05, 3600);
  } else if (name == "log") {
    constexpr std::string_view names[] = {"all", "errors", "none"};
    const auto found = std::ranges::find(names, text);
    if (found == std::end(names)) refuse(name, "'" + text + "'", "all, errors or none");
    settings.log = static_cast<Settings::Log>(found - names);
  } else {
    return false;
  }
  return true;
}

std::string text_of(const toml::node& node, std::string_view name) {
  if (const auto* text = node.as_string()) return text->get();
  JsonWriter out;
  write(node, name, out);
  return out.take();
}

void read_file(Settings& settings, const std::string& path, JsonWriter& core) {
  toml::table content;
  try {
    content = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    throw std::invalid_argument(path + " can't be read: " + std::string(error.description()) + " (line " +
                                std::to_string(error.source().begin.line) + ")");
  }
  const toml::node* serve = content.get("serve");
  if (serve == nullptr) return;
  if (!serve->is_table()) throw std::invalid_argument(path + ": serve is no table; want [serve]");
  for (const auto& [key, value] : *serve->as_table()) {
    const std::string_view name = key.str();
    if (set(settings, name, text_of(value, name))) continue;
    if (std::ranges::find(other_keys, name) != std::end(other_keys))
      settings.ignored.emplace_back(name);
    else if (std::ranges::find(core_keys, name) != std::end(core_keys))
      write(value, name, core.key(name));
    else
      throw std::invalid_argument(path + ": [serve] has no option '" + std::string(name) + "'");
  }
}

}  // namespace

std::string Settings::help() {
  return R"(pygraded --run RUN [--config pygrade.toml] [--OPTION VALUE …]

Serves what `pygrade pipeline` wrote to RUN over HTTP: /v1/rank, /v1/update, /v1/explain, /v1/status, /livez,
/readyz, /metrics and /console. The options are those of the table [serve] of the file; docs/SERVICE.md lists them.

  --run RUN              the run's directory
  --config FILE          a TOML file with a table [serve]
  --host ADDRESS         to listen on (127.0.0.1)
  --port PORT            0: a free one (8080)
  --connections N        at once (512)
  --max-body-bytes N     of a request (1048576)
  --token-file FILE      a line for each token that clients send as "Authorization: Bearer TOKEN"; or one in PYGRADE_TOKEN
  --tls-cert FILE        PEM of the certificate and its chain
  --tls-key FILE         PEM of its key
  --console FILE         the page of /console (RUN/studio.html)
  --drain-seconds S      from SIGTERM to the end (5)
  --refresh-seconds S    between looks at artifact and policies; SIGHUP looks at once (1)
  --log all|errors|none  JSON lines on standard error, one a request (all)
  --version, --help
)";
}

Settings Settings::parse(int argc, char** argv) {
  Settings settings;
  std::vector<std::pair<std::string, std::string>> given;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i], value;
    if (name == "--help" || name == "-h") settings.wants_help = true;
    if (name == "--version") settings.wants_version = true;
    if (settings.wants_help || settings.wants_version) return settings;
    if (!name.starts_with("--")) refuse("argument", "'" + name + "'", "options --NAME VALUE, see --help");
    if (const auto at = name.find('='); at != name.npos) {
      value = name.substr(at + 1);
      name.resize(at);
    } else if (++i < argc) {
      value = argv[i];
    } else {
      throw std::invalid_argument(name + " lacks its value");
    }
    std::ranges::replace(name, '-', '_');
    given.emplace_back(name.substr(2), value);
  }
  JsonWriter core;
  core.begin_object();
  for (const auto& [name, value] : given)
    if (name == "config") read_file(settings, value, core);
  for (const auto& [name, value] : given) {
    if (name == "config") continue;
    if (name == "run")
      settings.run = value;
    else if (!set(settings, name, value))
      throw std::invalid_argument("--" + name + " is unknown; see --help");
  }
  core.field("max_body_bytes", settings.max_body_bytes).end_object();
  settings.core = core.take();
  if (settings.run.empty()) throw std::invalid_argument("--run is missing; want the directory of a run");
  if (settings.tls_cert.has_value() != settings.tls_key.has_value())
    throw std::invalid_argument("tls_cert and tls_key go together; one of them is missing");
  if (settings.console.empty()) settings.console = settings.run / "studio.html";
  return settings;
}

}  // namespace pygrade::server
