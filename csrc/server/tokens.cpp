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

Tokens::Tokens(std::optional<std::filesystem::path> file) : file_(std::move(file)) { reload(); }

void Tokens::reload() {
  std::vector<std::string> found;
  if (file_) {
    std::ifstream stream(*file_);
    for (std::string line; std::getline(stream, line);)
      if (const auto token = trimmed(line); !token.empty() && token[0] != '#') found.push_back(digest(token));
    if (found.empty()) throw std::invalid_argument(file_->string() + " holds no token; want a line for each");
  }
  if (const char* token = std::getenv("PYGRADE_TOKEN"); token != nullptr && !trimmed(token).empty())
    found.push_back(digest(trimmed(token)));
  const std::lock_guard lock(mutex_);
  digests_ = std::move(found);
}

bool Tokens::required() const {
  const std::lock_guard lock(mutex_);
  return !digests_.empty();
}

bool Tokens::accept(std::string_view authorization) const {
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
  int fitting = 0;
  for (const std::string& known : digests_) fitting += equal(wanted, known);
  return fitting > 0;
}

}  // namespace pygrade::inline v0_2::server
