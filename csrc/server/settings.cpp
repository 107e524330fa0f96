#include "settings.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <thread>

#include "service/json_writer.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2::server {

namespace {

namespace fs = std::filesystem;
using detail::Json;
using detail::JsonWriter;

[[noreturn]] void refuse(std::string_view name, const std::string& what, const std::string& wanted) {
  throw std::invalid_argument(std::string(name) + " is " + what + "; want " + wanted);
}

double number_of(std::string_view name, const std::string& text, double low, double high) {
  double value = 0.0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || !(value >= low && value <= high)) {
    char limits[64];
    std::snprintf(limits, sizeof limits, "a number from %.10g to %.10g", low, high);
    refuse(name, "'" + text + "'", limits);
  }
  return value;
}

int whole_of(std::string_view name, const std::string& text, int low, int high) {
  const double value = number_of(name, text, low, high);
  if (value != std::floor(value)) refuse(name, "'" + text + "'", "a whole number");
  return static_cast<int>(value);
}

fs::path file_of(std::string_view name, const std::string& text) {
  if (!fs::is_regular_file(text)) refuse(name, "'" + text + "'", "a file");
  return text;
}

struct Option {
  std::string_view name, value, help;
  void (*set)(Settings& settings, std::string_view name, const std::string& text);
};

using S = Settings;
using Name = std::string_view;
using Text = const std::string&;

// What the server takes itself, in the order of --help. All other options are the service's (docs/SERVICE.md).
constexpr Option options[] = {
    {"run", "RUN", "directory of the run, a pipeline's or a policy's", [](S& s, Name, Text t) { s.run = t; }},
    {"host", "ADDRESS", "to listen on (127.0.0.1)", [](S& s, Name, Text t) { s.host = t; }},
    {"port", "PORT", "0: a free one (8080)", [](S& s, Name n, Text t) { s.port = whole_of(n, t, 0, 65'535); }},
    {"public", "true|false", "whether others may ask without a token (false)",
     [](S& s, Name n, Text t) {
       if (t != "true" && t != "false") refuse(n, "'" + t + "'", "true or false");
       s.public_address = t == "true";
     }},
    {"token_file", "FILE", "a line for each token that clients send as \"Authorization: Bearer TOKEN\"",
     [](S& s, Name n, Text t) { s.token_file = file_of(n, t); }},
    {"tls_cert", "FILE", "PEM of the certificate and its chain",
     [](S& s, Name n, Text t) { s.tls_cert = file_of(n, t); }},
    {"tls_key", "FILE", "PEM of its key", [](S& s, Name n, Text t) { s.tls_key = file_of(n, t); }},
    {"threads", "N", "that make pages; 0: the number of cores, at most 8 (0)",
     [](S& s, Name n, Text t) { s.threads = whole_of(n, t, 0, 256); }},
    {"connections", "N", "at once (512)", [](S& s, Name n, Text t) { s.connections = whole_of(n, t, 1, 65'536); }},
    {"max_requests", "N", "pages in progress; more are answered with 503; 0: from the measured rate (0)",
     [](S& s, Name n, Text t) { s.max_requests = whole_of(n, t, 0, 1 << 20); }},
    {"max_body_bytes", "N", "of a request (1048576)",
     [](S& s, Name n, Text t) { s.max_body_bytes = static_cast<std::size_t>(whole_of(n, t, 1024, 1 << 30)); }},
    {"console", "FILE", "the page of /console (RUN/report.html)",
     [](S& s, Name n, Text t) { s.console = file_of(n, t); }},
    {"drain_seconds", "S", "from SIGTERM until it accepts no more (5)",
     [](S& s, Name n, Text t) { s.drain_seconds = number_of(n, t, 0, 3600); }},
    {"refresh_seconds", "S", "between looks at artifact and policies; SIGHUP looks at once (1)",
     [](S& s, Name n, Text t) { s.refresh_seconds = number_of(n, t, 0.05, 3600); }},
    {"log", "all|errors|none", "JSON lines on standard error, one a request (all)",
     [](S& s, Name n, Text t) {
       constexpr std::string_view names[] = {"all", "errors", "none"};
       const auto found = std::ranges::find(names, t);
       if (found == std::end(names)) refuse(n, "'" + t + "'", "all, errors or none");
       s.log = static_cast<S::Log>(found - names);
     }},
};

std::string text_of(const Json& value, std::string_view name) {
  if (value.type == Json::Type::string) return value.string;
  if (value.type != Json::Type::number && value.type != Json::Type::boolean)
    refuse(name, "no plain value", "a text, a number, true or false");
  JsonWriter out;
  write_json(value, out);
  return out.take();
}

// The options of all sources: those of the server are set, the others kept as JSON, by name.
class Reader {
 public:
  explicit Reader(Settings& settings) : settings_(settings) {}

  void set(std::string_view name, const Json& value) {
    if (const Option* option = find(name)) {
      option->set(settings_, name, text_of(value, name));
    } else {
      JsonWriter out;
      write_json(value, out);
      core_[std::string(name)] = out.take();
    }
  }

  // Of the command line, which every user of the machine can read.
  void set(std::string_view name, const std::string& text) {
    if (const Option* option = find(name)) {
      option->set(settings_, name, text);
      return;
    }
    if (name == "store" && text.find("://") != text.npos && text.find('@') != text.npos)
      throw std::invalid_argument(
          "--store has a password, which the list of processes would show; want it in --config or in PYGRADE_STORE");
    std::string json = detail::json_quote(text);
    try {
      Json::parse(text);
      json = text;
    } catch (const detail::JsonError&) {
    }
    core_[std::string(name)] = json;
  }

  void read(const std::string& path) {
    std::string text;
    if (path == "-") {
      text.assign(std::istreambuf_iterator<char>(std::cin), {});
    } else {
      std::ifstream file(path, std::ios::binary);
      if (!file) throw std::invalid_argument("config " + path + " can't be read; want a file of JSON");
      text.assign(std::istreambuf_iterator<char>(file), {});
    }
    Json content;
    try {
      content = Json::parse(text);
    } catch (const detail::JsonError& error) {
      throw std::invalid_argument("config " + path + " is no JSON: " + error.what());
    }
    if (content.type != Json::Type::object)
      throw std::invalid_argument("config " + path + " is no object; want {\"option\": value, …}");
    for (std::size_t i = 0; i < content.keys.size(); ++i) set(content.keys[i], content.items[i]);
  }

  std::string core() {
    if (const char* store = std::getenv("PYGRADE_STORE"); store != nullptr && *store != '\0')
      core_.try_emplace("store", detail::json_quote(store));
    core_["max_body_bytes"] = std::to_string(settings_.max_body_bytes);
    JsonWriter out;
    out.begin_object();
    for (const auto& [name, json] : core_) out.key(name).raw(json);
    out.end_object();
    return out.take();
  }

 private:
  static const Option* find(std::string_view name) {
    const auto found = std::ranges::find(options, name, &Option::name);
    return found == std::end(options) ? nullptr : found;
  }

  Settings& settings_;
  std::map<std::string, std::string> core_;
};

}  // namespace

std::string Settings::help() {
  std::string text =
      "pygraded --run RUN [--config FILE.json] [--OPTION VALUE …]\n\n"
      "Serves a run over HTTP: /v1/rank, /v1/update, /v1/explain, /v1/status, /livez, /readyz, /metrics, /console.\n"
      "Options stand in a JSON object, too ({\"port\": 8000}); the command line wins. docs/SERVICE.md has the "
      "service's\n"
      "own, which are given in the same ways. PYGRADE_TOKEN holds a token, PYGRADE_STORE the address of a store.\n\n"
      "  --config FILE             JSON; -: standard input\n";
  for (const Option& option : options) {
    std::string left = "  --" + std::string(option.name) + " " + std::string(option.value);
    std::ranges::replace(left, '_', '-');
    left.resize(std::max<std::size_t>(left.size() + 1, 28), ' ');
    text.append(left).append(option.help).append("\n");
  }
  return text + "  --version, --help\n";
}

Settings Settings::parse(int argc, char** argv) {
  Settings settings;
  std::map<std::string, std::string> given;
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
    std::string key = name.substr(2);
    std::ranges::replace(key, '-', '_');
    if (!given.emplace(key, value).second) throw std::invalid_argument(name + " is given twice");
  }
  Reader reader(settings);
  if (const auto config = given.find("config"); config != given.end()) {
    reader.read(config->second);
    given.erase(config);
  }
  for (const auto& [name, value] : given) reader.set(name, value);
  settings.core = reader.core();
  if (settings.run.empty()) throw std::invalid_argument("run is missing; want --run with the directory of a run");
  if (settings.tls_cert.has_value() != settings.tls_key.has_value())
    throw std::invalid_argument("tls_cert and tls_key go together; one of them is missing");
  if (settings.console.empty()) settings.console = settings.run / "report.html";
  if (settings.threads == 0) settings.threads = std::clamp<int>(std::thread::hardware_concurrency(), 1, 8);
  return settings;
}

bool Settings::loopback() const { return host == "localhost" || host == "::1" || host.starts_with("127."); }

}  // namespace pygrade::inline v0_2::server
