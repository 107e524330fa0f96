// Tensors of torch as the core reads them, through torch's stable ABI alone: no ATen and no Python, so that one binary
// serves every torch from 2.10 on, every Python, and C++ programs without one.
//
// Each op has its schema and its CPU implementation in the file of its family; Python adds fakes, gradients and the
// implementations for GPUs (pygrade/ops). Errors are std::invalid_argument, which torch passes to Python as a
// ValueError, its newest versions as a RuntimeError; pygrade's functions make it a ValueError again.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

namespace pygrade::inline v0_2::torch_ops {
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Sizes = std::initializer_list<std::int64_t>;

// A size that admits each; messages name it by the letter.
constexpr std::int64_t any(char letter) { return -letter; }

enum class Dtype : std::uint8_t { float32, int32, int64, boolean };

template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return Dtype::float32;
  if constexpr (std::is_same_v<T, std::int32_t>) return Dtype::int32;
  if constexpr (std::is_same_v<T, std::int64_t>) return Dtype::int64;
  return Dtype::boolean;
}

std::span<const std::int64_t> sizes_of(const Tensor& tensor);

// `given`, or a contiguous copy of it. Throws if it is not of the dtype, or not of the sizes (see any).
Tensor checked(const Tensor& given, const char* name, Dtype dtype, Sizes sizes);

// A contiguous tensor that an op reads; uint8_t stands for bool. Without a tensor its span is empty.
template <class T>
class Input {
 public:
  Input(const Tensor& given, const char* name, Sizes sizes)
      : tensor_(checked(given, name, dtype_of<T>(), sizes)),
        span_(static_cast<const T*>(tensor_->const_data_ptr()), static_cast<std::size_t>(tensor_->numel())) {}
  Input(const MaybeTensor& given, const char* name, Sizes sizes)
      : Input(given ? Input(*given, name, sizes) : Input()) {}

  explicit operator bool() const { return tensor_.has_value(); }
  std::int64_t size(std::size_t dimension) const { return sizes_of(*tensor_)[dimension]; }
  std::span<const T> span() const { return span_; }

 private:
  Input() = default;

  MaybeTensor tensor_;
  std::span<const T> span_;
};

// A new contiguous tensor, float32 or int32, for an op to fill. `prompt` skips torch's dispatcher, which takes half a
// microsecond; torch then can't fill new memory with NaN, as its deterministic mode does.
Tensor fresh(std::span<const std::int64_t> sizes, Dtype dtype = Dtype::float32, bool prompt = false);
inline Tensor fresh(Sizes sizes, Dtype dtype = Dtype::float32, bool prompt = false) {
  return fresh({sizes.begin(), sizes.size()}, dtype, prompt);
}

template <class T = float>
std::span<T> memory_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), static_cast<std::size_t>(tensor.numel())};
}

// torch's number of threads for 0, else the number.
int thread_count(std::int64_t num_threads);

// Throws std::invalid_argument "name is value; expected wanted".
[[noreturn]] void refuse(const char* name, std::int64_t value, const char* wanted);
}  // namespace pygrade::inline v0_2::torch_ops
