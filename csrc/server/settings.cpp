#include "settings.hpp"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <thread>
#include <variant>

#include "util/json.hpp"

namespace pygrade::inline v0_2::server {
namespace {
namespace fs = std::filesystem;
using detail::Json;

[[noreturn]] void refuse(std::string_view name, const std::string& what, const std::string& wanted) {
  throw std::invalid_argument(std::string(name) + " is " + what + "; expected " + wanted);
}

// Whether a run or a tenant may have this name.
bool is_name(std::string_view text) {
  return !text.empty() &&
         std::ranges::all_of(text, [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

constexpr std::size_t most_tenants = 100;  // as each has its figures

// An option of the server itself: its words in --help, and the member that it sets.
struct Option {
  using Text = std::string Settings::*;
  using Path = fs::path Settings::*;  // of a directory, which need not be there
  using File = std::optional<fs::path> Settings::*;
  using Whole = int Settings::*;
  using Number = double Settings::*;
  using Flag = bool Settings::*;
  using Limits = std::vector<TenantLimits> Settings::*;  // a JSON object
  std::string_view name, value, help;
  std::variant<Text, Path, File, Whole, Number, Flag, Limits> member;
  double low = 0.0, high = 0.0;  // of a number

  void set(Settings& settings, const std::string& text) const {
    std::visit([&](auto to) { read(settings.*to, text); }, member);
  }
  bool is_json() const { return std::holds_alternative<Limits>(member); }

 private:
  void read(std::string& to, const std::string& text) const {
    if (value.find('|') != value.npos && ("|" + std::string(value) + "|").find("|" + text + "|") == value.npos)
      refuse(name, "'" + text + "'", "one of " + std::string(value));
    to = text;
  }
  void read(fs::path& to, const std::string& text) const { to = text; }
  void read(std::optional<fs::path>& to, const std::string& text) const {
    if (!fs::is_regular_file(text)) refuse(name, "'" + text + "'", "a file");
    to = text;
  }
  void read(double& to, const std::string& text) const {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), to);
    if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || !(to >= low && to <= high))
      refuse(name, "'" + text + "'",
             "a number from " + detail::plain_number(low) + " to " + detail::plain_number(high));
  }
  void read(int& to, const std::string& text) const {
    double number = 0.0;
    read(number, text);
    if (number != std::floor(number)) refuse(name, "'" + text + "'", "a whole number");
    to = static_cast<int>(number);
  }
  void read(bool& to, const std::string& text) const {
    if (text != "true" && text != "false") refuse(name, "'" + text + "'", "true or false");
    to = text == "true";
  }
  void read(std::vector<TenantLimits>& to, const std::string& text) const {
    Json given;
    try {
      given = Json::parse(text);
    } catch (const detail::JsonError&) {
    }
    if (given.type != Json::Type::object) refuse(name, "'" + text + "'", "an object by the names of tokens");
    to.clear();
    for (std::size_t i = 0; i < given.keys.size(); ++i) {
      TenantLimits& tenant = to.emplace_back(given.keys[i]);
      const std::string where = std::string(name) + "." + tenant.name;
      if (!is_name(tenant.name)) refuse(where, "no name", "letters, digits, _ and - alone");
      const Json& limits = given.items[i];
      if (limits.type != Json::Type::object) refuse(where, detail::json_text(limits), "an object of its limits");
      for (std::size_t k = 0; k < limits.keys.size(); ++k) {
        const bool is_share = limits.keys[k] == "pages";
        const std::string about = where + "." + limits.keys[k];
        if (!is_share && limits.keys[k] != "requests_per_second")
          refuse(about, "unknown", "pages, requests_per_second or both");
        const Option limit{about, "N", "", {}, 1e-3, is_share ? 1.0 : 1e6};
        limit.read(is_share ? tenant.pages : tenant.requests_per_second, detail::json_text(limits.items[k]));
      }
    }
    if (to.size() > most_tenants)
      refuse(name, "of " + std::to_string(to.size()), "at most " + std::to_string(most_tenants) + " tenants");
  }
};

using S = Settings;

// In the order of --help. All other options are the service's (docs/SERVICE.md).
const Option options[] = {
    {"run", "RUN", "directory of the run, a pipeline's or a policy's; NAME=RUN: of one more, which requests name",
     &S::run},
    {"host", "ADDRESS", "to listen on (127.0.0.1)", &S::host},
    {"port", "PORT", "0: a free one (8080)", &S::port, 0, 65'535},
    {"public", "true|false", "whether others may ask without a token (false)", &S::public_address},
    {"token_file", "FILE", "a line for each token that clients send as \"Authorization: Bearer TOKEN\"",
     &S::token_file},
    {"tenants", "JSON", "limits by NAME of the tokens in lines NAME=TOKEN: pages (share), requests_per_second",
     &S::tenants},
    {"tls_cert", "FILE", "PEM of the certificate and its chain", &S::tls_cert},
    {"tls_key", "FILE", "PEM of its key", &S::tls_key},
    {"threads", "N", "that make pages; 0: the number of cores, at most 8 (0)", &S::threads, 0, 256},
    {"connections", "N", "at once (512)", &S::connections, 1, 65'536},
    {"connections_each", "N", "of one address; 0, as behind a proxy: any (256)", &S::connections_each, 0, 65'536},
    {"max_requests", "N", "pages in progress; more are answered with 503; 0: from the measured rate (0)",
     &S::max_requests, 0, 1 << 20},
    {"max_body_bytes", "N", "of a request (1048576)", &S::max_body_bytes, 1024, 1 << 30},
    {"console", "FILE", "the page of /console (RUN/report.html)", &S::console},
    {"drain_seconds", "S", "from SIGTERM until it accepts no more (5)", &S::drain_seconds, 0, 3600},
    {"refresh_seconds", "S", "between looks at artifact and policies; SIGHUP looks at once (1)", &S::refresh_seconds,
     0.05, 3600},
    {"log", "all|errors|none", "JSON lines on standard error, one a request (all)", &S::log},
};

std::string text_of(const Json& value, std::string_view name) {
  if (value.type == Json::Type::string) return value.string;
  if (value.type != Json::Type::number && value.type != Json::Type::boolean)
    refuse(name, "no plain value", "a text, a number, true or false");
  return detail::json_text(value);
}

// The options of all sources: those of the server are set, the others kept as JSON, by name.
class Reader {
 public:
  explicit Reader(Settings& settings) : settings_(settings) {}

  void set(std::string_view name, const Json& value) {
    if (const Option* option = find(name))
      option->set(settings_, option->is_json() ? detail::json_text(value) : text_of(value, name));
    else
      core_[std::string(name)] = detail::json_text(value);
  }

  // Sets an option of the command line, which every user of the machine can read.
  void set(std::string_view name, const std::string& text) {
    if (const Option* option = find(name)) return option->set(settings_, text);
    if (name == "store" && text.find("://") != text.npos && text.find('@') != text.npos)
      throw std::invalid_argument(
          "--store has a password, which the list of processes would show; expected it in --config or in "
          "PYGRADE_STORE");
    std::string json = detail::json_quote(text);
    try {
      Json::parse(text);
      json = text;
    } catch (const detail::JsonError&) {
    }
    core_[std::string(name)] = json;
  }

  // Adds a run with a name to those of the file.
  void add_run(const std::string& name, const std::string& path) {
    std::string& all = core_.try_emplace("runs", "{}").first->second;
    all.back() = all.size() > 2 ? ',' : ' ';
    all += detail::json_quote(name) + ":{\"run\":" + detail::json_quote(path) + "}}";
  }
  bool has_runs() const { return core_.contains("runs"); }

  void read(const std::string& path) {
    std::string text;
    if (path == "-") {
      text.assign(std::istreambuf_iterator<char>(std::cin), {});
    } else {
      std::ifstream file(path, std::ios::binary);
      if (!file) throw std::invalid_argument("config " + path + " can't be read; expected a file of JSON");
      text.assign(std::istreambuf_iterator<char>(file), {});
    }
    Json content;
    try {
      content = Json::parse(text);
    } catch (const detail::JsonError& error) {
      throw std::invalid_argument("config " + path + " is no JSON: " + error.what());
    }
    if (content.type != Json::Type::object)
      throw std::invalid_argument("config " + path + " is no object; expected {\"option\": value, …}");
    for (std::size_t i = 0; i < content.keys.size(); ++i) set(content.keys[i], content.items[i]);
  }

  std::string core() {
    if (const char* store = std::getenv("PYGRADE_STORE"); store != nullptr && *store != '\0')
      core_.try_emplace("store", detail::json_quote(store));
    core_["max_body_bytes"] = std::to_string(settings_.max_body_bytes);
    std::string text;
    for (const auto& [name, json] : core_) text += (text.empty() ? "" : ",") + detail::json_quote(name) + ":" + json;
    return "{" + text + "}";
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
      "pygraded --run RUN [--run NAME=RUN …] [--config FILE.json] [--OPTION VALUE …]\n\n"
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
  std::vector<std::pair<std::string, std::string>> runs;  // with names
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
    if (const auto at = value.find('='); key == "run" && is_name(value.substr(0, at)) && at != value.npos) {
      runs.emplace_back(value.substr(0, at), value.substr(at + 1));
      continue;
    }
    if (!given.emplace(key, value).second) throw std::invalid_argument(name + " is given twice");
  }
  Reader reader(settings);
  if (const auto config = given.find("config"); config != given.end()) {
    reader.read(config->second);
    given.erase(config);
  }
  for (const auto& [name, value] : given) reader.set(name, value);
  for (const auto& [name, path] : runs) reader.add_run(name, path);
  if (settings.run.empty() && !reader.has_runs())
    throw std::invalid_argument("run is missing; expected --run with the directory of a run");
  settings.core = reader.core();
  if (settings.tls_cert.has_value() != settings.tls_key.has_value())
    throw std::invalid_argument("tls_cert and tls_key go together; one of them is missing");
  if (!settings.console) settings.console = settings.run / "report.html";
  if (settings.threads == 0) settings.threads = std::clamp<int>(std::thread::hardware_concurrency(), 1, 8);
  return settings;
}

bool Settings::loopback() const {
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);  // a name that begins with "127." is none
  return host == "localhost" || (!error && address.is_loopback());
}
}  // namespace pygrade::inline v0_2::server
