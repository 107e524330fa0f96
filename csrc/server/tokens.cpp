#include "tokens.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <span>
#include <stdexcept>

#include "util/sha256.hpp"

namespace pygrade::inline v0_2::server {
namespace {
std::string digest(std::string_view token) { return detail::sha256_hex(std::as_bytes(std::span(token))); }

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// Takes as long whatever differs, so that its time says nothing of the token.
bool equal(std::string_view a, std::string_view b) {
  unsigned different = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    different |= static_cast<unsigned>(static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]));
  return different == 0;
}

// The bytes of base64 text; nothing if it is none.
std::optional<std::string> decoded(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string bytes;
  unsigned bits = 0, count = 0;
  for (const char c : text) {
    const auto digit = digits.find(c);
    if (digit == digits.npos) return {};
    bits = (bits << 6 | static_cast<unsigned>(digit)) & 0xffff;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xff);
  }
  return bytes;
}
}  // namespace

Tokens::Tokens(std::optional<std::filesystem::path> file, std::vector<std::string> tenants)
    : file_(std::move(file)), tenants_(std::move(tenants)) {
  reload();
}

void Tokens::reload() {
  std::vector<Known> found;
  std::vector<bool> has_token(tenants_.size());
  if (file_) {
    std::ifstream stream(*file_);
    for (std::string line; std::getline(stream, line);) {
      auto token = trimmed(line);
      if (token.empty() || token[0] == '#') continue;
      std::optional<std::size_t> tenant;
      if (const auto at = std::ranges::find(tenants_, token.substr(0, token.find('='))); at != tenants_.end()) {
        tenant = static_cast<std::size_t>(at - tenants_.begin());
        token = trimmed(token.substr(std::min(token.size(), at->size() + 1)));
        has_token[*tenant] = has_token[*tenant] || !token.empty();
      }
      if (!token.empty()) found.push_back({digest(token), tenant});
    }
    if (found.empty()) throw std::invalid_argument(file_->string() + " holds no token; expected a line for each");
  }
  if (const char* token = std::getenv("PYGRADE_TOKEN"); token != nullptr && !trimmed(token).empty())
    found.push_back({digest(trimmed(token)), {}});
  if (const auto at = std::ranges::find(has_token, false); at != has_token.end()) {
    const std::string& name = tenants_[static_cast<std::size_t>(at - has_token.begin())];
    throw std::invalid_argument("tenants names '" + name + "', who has no token; expected a line " + name +
                                "=TOKEN in token_file");
  }
  const std::lock_guard lock(mutex_);
  known_ = std::move(found);
}

bool Tokens::required() const {
  const std::lock_guard lock(mutex_);
  return !known_.empty();
}

bool Tokens::accept(std::string_view authorization, std::optional<std::size_t>& tenant) const {
  authorization = trimmed(authorization);
  const std::size_t space = authorization.find(' ');
  if (space == authorization.npos) return false;
  std::string kind(authorization.substr(0, space));
  std::ranges::transform(kind, kind.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string given(trimmed(authorization.substr(space)));
  if (kind == "basic") {
    const auto both = decoded(given);
    const std::size_t colon = both ? both->find(':') : std::string::npos;
    if (colon == std::string::npos) return false;
    given = both->substr(colon + 1);
  } else if (kind != "bearer") {
    return false;
  }
  const std::string wanted = digest(given);
  const std::lock_guard lock(mutex_);
  const Known* fitting = nullptr;
  for (const Known& known : known_)
    if (equal(wanted, known.digest)) fitting = &known;
  if (fitting != nullptr) tenant = fitting->tenant;
  return fitting != nullptr;
}
}  // namespace pygrade::inline v0_2::server
