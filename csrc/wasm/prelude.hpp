// Included before every file of the WebAssembly build, which has no exceptions and no threads: what would be thrown is
// stored for `last_error`, and the call ends in a trap.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::wasm {

struct Thrown {
  [[noreturn]] void operator=(const std::exception& error) const;
};

inline constexpr Thrown thrown;

}  // namespace pygrade::inline v0_2::wasm

#define throw ::pygrade::wasm::thrown =
#define try if constexpr (true)
#define catch(...) else if constexpr (false)
