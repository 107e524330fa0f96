#include "util/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
static_assert(std::endian::native == std::endian::little, "tensors are read without swapping bytes");

constexpr JsonLimits header_limits{.bytes = std::size_t{1} << 20, .values = std::size_t{1} << 16, .depth = 4};
constexpr std::size_t max_rank = 8;
constexpr std::string_view metadata_key = "__metadata__";

TensorType type_of(std::string_view name) {
  if (name == "F32") return TensorType::float32;
  if (name == "F64") return TensorType::float64;
  if (name == "I64") return TensorType::int64;
  if (name == "U8" || name == "BOOL") return TensorType::uint8;
  throw JsonError("'dtype' is " + json_quote(name) + "; expected F32, F64, I64, U8 or BOOL");
}

std::uint64_t bytes_of(TensorType type) { return type == TensorType::uint8 ? 1 : type == TensorType::float32 ? 4 : 8; }

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

std::vector<std::int64_t> read_sizes(JsonReader& reader, std::string_view key) {
  const auto refuse = [&](const char* what) { throw JsonError("'" + std::string(key) + "' " + what); };
  std::vector<std::int64_t> sizes;
  if (reader.peek() != Json::Type::array) refuse("is not a list");
  for (reader.enter_list(); reader.next_item();) {
    const auto size = reader.peek() == Json::Type::number ? reader.number() : JsonReader::Number{};
    if (!size.whole || size.integer < 0 || size.integer > std::int64_t{1} << 53)
      refuse("holds something that is not an integer of 0 … 2^53");
    sizes.push_back(size.integer);
  }
  return sizes;
}

TensorView read_tensor(JsonReader& reader, std::string name, std::span<const std::byte> data) {
  TensorView view{.name = std::move(name), .type = TensorType::uint8, .shape = {}, .bytes = {}};
  std::vector<std::int64_t> offsets;
  unsigned found = 0;
  const auto check = [](bool fits) {
    if (!fits) throw JsonError("its entry must have dtype, shape and data_offsets, and nothing else");
  };
  check(reader.peek() == Json::Type::object);
  reader.enter_object();
  for (std::string_view key; reader.next_key(key);) {
    if (key == "dtype") {
      found |= 1;
      if (reader.peek() != Json::Type::string) throw JsonError("'dtype' is not a string");
      view.type = type_of(reader.string());
    } else if (key == "shape") {
      found |= 2;
      view.shape = read_sizes(reader, key);
    } else {
      check(key == "data_offsets");
      found |= 4;
      offsets = read_sizes(reader, key);
    }
  }
  check(found == 7);
  if (offsets.size() != 2) throw JsonError("'data_offsets' must be two numbers");
  const auto begin = static_cast<std::uint64_t>(offsets[0]);
  const auto end = static_cast<std::uint64_t>(offsets[1]);
  if (begin > end || end > data.size())
    throw JsonError("'data_offsets' are " + std::to_string(begin) + " … " + std::to_string(end) + "; the file has " +
                    std::to_string(data.size()) + " bytes of data");
  if (view.shape.size() > max_rank) throw JsonError("'shape' has more than 8 dimensions");
  std::uint64_t wanted = bytes_of(view.type);
  for (const std::int64_t size : view.shape) {
    if (__builtin_mul_overflow(wanted, static_cast<std::uint64_t>(size), &wanted))
      throw JsonError("'shape' is too large");
  }
  if (wanted != end - begin)
    throw JsonError("'data_offsets' span " + std::to_string(end - begin) + " bytes; shape " + shape_text(view.shape) +
                    " needs " + std::to_string(wanted));
  view.bytes = data.subspan(begin, end - begin);
  return view;
}

void check_cover(std::vector<TensorView>& tensors, std::span<const std::byte> data) {
  std::ranges::sort(tensors, [](const TensorView& a, const TensorView& b) {
    return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data() : a.bytes.size() < b.bytes.size();
  });
  const std::byte* at = data.data();
  for (const TensorView& view : tensors) {
    if (view.bytes.data() != at)
      throw SafetensorsError("tensor " + json_quote(view.name) + " overlaps the one before it or leaves a gap");
    at += view.bytes.size();
  }
  if (at != data.data() + data.size()) throw SafetensorsError("there is data after the last tensor");
}

struct Parts {
  std::string_view header;
  std::span<const std::byte> data;
};

Parts parts_of(std::span<const std::byte> content) {
  std::uint64_t length = 0;
  if (content.size() < sizeof length) throw SafetensorsError("the file is truncated: it has no header length");
  std::memcpy(&length, content.data(), sizeof length);
  if (length > header_limits.bytes || length > content.size() - sizeof length)
    throw SafetensorsError("the header says it has " + std::to_string(length) + " bytes; the file has " +
                           std::to_string(content.size() - sizeof length) + " and at most " +
                           std::to_string(header_limits.bytes) + " are read");
  const auto text = content.subspan(sizeof length, length);
  return {{reinterpret_cast<const char*>(text.data()), text.size()}, content.subspan(sizeof length + length)};
}

void read_texts(JsonReader& reader, TensorMetadata& texts) {
  reader.enter_object();
  for (std::string_view key; reader.next_key(key);) {
    if (reader.peek() != Json::Type::string) throw JsonError("'" + std::string(key) + "' is not a string");
    texts.emplace_back(key, reader.string());
  }
}
}  // namespace

std::vector<TensorView> read_safetensors(std::span<const std::byte> content, TensorMetadata* metadata) {
  const auto [text, data] = parts_of(content);
  std::vector<TensorView> tensors;
  std::string name;
  try {
    JsonReader reader(text, header_limits);
    if (reader.peek() != Json::Type::object || text[0] != '{') throw JsonError("it is not an object");
    reader.enter_object();
    for (std::string_view key; reader.next_key(key); name.clear()) {
      if (key != metadata_key)
        tensors.push_back(read_tensor(reader, name = key, data));
      else if (metadata != nullptr)
        read_texts(reader, *metadata);
      else
        reader.skip();
    }
    reader.end();
  } catch (const JsonError& error) {
    throw SafetensorsError((name.empty() ? "the header: " : "tensor " + json_quote(name) + ": ") + error.what());
  }
  check_cover(tensors, data);
  std::ranges::sort(tensors, {}, &TensorView::name);
  return tensors;
}

std::string_view find_text(const TensorMetadata& metadata, std::string_view key) {
  const auto found = std::ranges::find(metadata, key, &TensorMetadata::value_type::first);
  return found == metadata.end() ? std::string_view() : found->second;
}

const TensorView& find_tensor(std::span<const TensorView> tensors, std::string_view name) {
  const auto found = std::ranges::lower_bound(tensors, name, {}, &TensorView::name);
  if (found == tensors.end() || found->name != name)
    throw SafetensorsError("tensor " + json_quote(name) + " is absent");
  return *found;
}

std::vector<float> float_tensor(std::span<const TensorView> tensors, std::string_view name,
                                std::span<const std::int64_t> shape) {
  const TensorView& found = find_tensor(tensors, name);
  if (found.type != TensorType::float32) throw SafetensorsError("tensor " + json_quote(name) + " is not F32");
  if (!std::ranges::equal(found.shape, shape))
    throw SafetensorsError("tensor " + json_quote(name) + " is " + shape_text(found.shape) + "; expected " +
                           shape_text(shape));
  std::vector<float> values(found.bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), found.bytes.data(), found.bytes.size());
  return values;
}
}  // namespace pygrade::inline v0_2::detail
