#include "stores/redis_protocol.hpp"

#include <array>
#include <charconv>

namespace pygrade::inline v0_2::detail {

namespace {

// CRC-16/XMODEM.
constexpr auto crc_table = [] {
  std::array<std::uint16_t, 256> table{};
  for (unsigned i = 0; i < 256; ++i) {
    unsigned crc = i << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1) & 0xffff;
    table[i] = static_cast<std::uint16_t>(crc);
  }
  return table;
}();

}  // namespace

void RedisReplies::clear() {
  replies_.clear();
  texts_.clear();
}

std::size_t RedisReplies::add(Kind kind, std::string_view text, std::int64_t integer, std::size_t elements) {
  const bool array = kind == Kind::array;
  replies_.push_back({kind, texts_.size(), array ? elements : text.size(), integer});
  texts_ += text;
  return replies_.size() - 1;
}

std::string_view RedisReplies::text(std::size_t i) const {
  const Reply& reply = replies_[i];
  if (reply.kind != Kind::text && reply.kind != Kind::status && reply.kind != Kind::error) return {};
  return std::string_view(texts_).substr(reply.start, reply.size);
}

std::size_t RedisReplies::after(std::size_t i) const {
  for (std::size_t left = 1; left > 0; ++i) left += (replies_[i].kind == Kind::array ? replies_[i].size : 0) - 1;
  return i;
}

void RedisCommands::head(std::size_t words) {
  char text[24] = "*";
  const auto end = std::to_chars(text + 1, text + 21, words).ptr;
  bytes_.append(text, end).append("\r\n");
}

void RedisCommands::word(std::string_view text) {
  char head[24] = "$";
  char* end = std::to_chars(head + 1, head + 21, text.size()).ptr;
  *end++ = '\r';
  *end++ = '\n';
  bytes_.append(head, end).append(text).append("\r\n", 2);
}

void RedisCommands::word(std::int64_t number) {
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, number).ptr;
  word(std::string_view(text, static_cast<std::size_t>(end - text)));
}

void RedisCommands::command(std::initializer_list<std::string_view> words) {
  head(words.size());
  for (const auto text : words) word(text);
}

// Redis hashes what stands between the first '{' and the next '}', if there is something, else the whole key.
int slot_of(std::string_view key) {
  if (const auto open = key.find('{'); open != key.npos)
    if (const auto close = key.find('}', open + 1); close != key.npos && close > open + 1)
      key = key.substr(open + 1, close - open - 1);
  unsigned crc = 0;
  for (const unsigned char byte : key) crc = (crc << 8 & 0xffff) ^ crc_table[crc >> 8 ^ byte];
  return static_cast<int>(crc % slot_count);
}

}  // namespace pygrade::inline v0_2::detail
