#include "tensors.hpp"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace pygrade::inline v0_2::torch_ops {
namespace {
std::int32_t code_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return aoti_torch_dtype_float32();
    case Dtype::int32:
      return aoti_torch_dtype_int32();
    case Dtype::int64:
      return aoti_torch_dtype_int64();
    default:
      return aoti_torch_dtype_bool();
  }
}

const char* name_of(Dtype dtype) {
  constexpr std::array<const char*, 4> names{"float32", "int32", "int64", "bool"};
  return names[static_cast<std::size_t>(dtype)];
}

std::string text_of(std::span<const std::int64_t> sizes) {
  std::string text = "[";
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    if (d > 0) text += ", ";
    text += sizes[d] < 0 ? std::string(1, static_cast<char>(-sizes[d])) : std::to_string(sizes[d]);
  }
  return text + "]";
}
}  // namespace

std::span<const std::int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.data(), sizes.size()};
}

Tensor checked(const Tensor& given, const char* name, Dtype dtype, Sizes sizes) {
  std::int32_t code = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(given.get(), &code));
  if (code != code_of(dtype))
    throw std::invalid_argument(std::string(name) + " is of another dtype; expected " + name_of(dtype));
  const auto found = sizes_of(given);
  const auto fits = [](std::int64_t is, std::int64_t wanted) { return wanted < 0 || is == wanted; };
  if (!std::equal(found.begin(), found.end(), sizes.begin(), sizes.end(), fits))
    throw std::invalid_argument(std::string(name) + " is of shape " + text_of(found) + "; expected " +
                                text_of({sizes.begin(), sizes.size()}));
  return given.is_contiguous() ? given : torch::stable::contiguous(given);
}

Tensor fresh(std::span<const std::int64_t> sizes, Dtype dtype, bool prompt) {
  if (!prompt)
    return torch::stable::empty({sizes.data(), sizes.size()}, dtype == Dtype::float32
                                                                  ? torch::headeronly::ScalarType::Float
                                                                  : torch::headeronly::ScalarType::Int);
  std::array<std::int64_t, 4> strides{};
  std::int64_t step = 1;
  for (std::size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step *= std::max<std::int64_t>(sizes[d], 1);
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), code_of(dtype), aoti_torch_device_type_cpu(),
                                                         0, &handle));
  return Tensor(handle);
}

int thread_count(std::int64_t num_threads) {
  if (num_threads < 0 || num_threads > 1 << 20)
    refuse("num_threads", num_threads, "at least 1 and at most 1048576, or 0 for torch's setting");
  return static_cast<int>(num_threads == 0 ? torch::stable::get_num_threads() : num_threads);
}

void refuse(const char* name, std::int64_t value, const char* wanted) {
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected " + wanted);
}
}  // namespace pygrade::inline v0_2::torch_ops
