// A strict reader of the safetensors format: 8 bytes of length (little-endian), a JSON header of that length, then the
// tensors at the offsets in the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
class SafetensorsError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class TensorType : std::uint8_t { float32, float64, int64, uint8 };

struct TensorView {
  std::string name;
  TensorType type;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  // C-contiguous, little-endian, not necessarily aligned
};

// Numbers where they lie in a file, or a copy of them if they are not aligned there.
template <class T>
class TensorValues : public std::span<const T> {
 public:
  TensorValues() = default;
  explicit TensorValues(std::span<const std::byte> bytes) {
    const std::size_t size = bytes.size() / sizeof(T);
    if (size == 0) return;
    const auto* from = reinterpret_cast<const T*>(bytes.data());
    if (reinterpret_cast<std::uintptr_t>(from) % alignof(T) != 0) {
      copy_.resize(size);
      std::memcpy(copy_.data(), bytes.data(), size * sizeof(T));
      from = copy_.data();
    }
    static_cast<std::span<const T>&>(*this) = {from, size};
  }
  TensorValues(TensorValues&&) noexcept = default;  // the copy stays where it is
  TensorValues& operator=(TensorValues&&) noexcept = default;

  bool copied() const { return !copy_.empty(); }

 private:
  std::vector<T> copy_;
};

using TensorMetadata = std::vector<std::pair<std::string, std::string>>;  // texts of a file by key

// The tensors of a file's content, sorted by name; the views point into `content`. They must cover the data without gap
// or overlap, each with the size of its shape; otherwise a SafetensorsError names the tensor. `metadata`: what gets the
// file's.
std::vector<TensorView> read_safetensors(std::span<const std::byte> content, TensorMetadata* metadata = nullptr);

// The text of a key; "" if there is none.
std::string_view find_text(const TensorMetadata& metadata, std::string_view key);

// The tensor of this name; SafetensorsError if there is none.
const TensorView& find_tensor(std::span<const TensorView> tensors, std::string_view name);

// The tensor of this name as float32 of this shape; SafetensorsError if there is none.
std::vector<float> float_tensor(std::span<const TensorView> tensors, std::string_view name,
                                std::span<const std::int64_t> shape);
}  // namespace pygrade::inline v0_2::detail
