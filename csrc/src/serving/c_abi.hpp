// Parts that all functions of the C ABI share: errors as statuses with a text, and structs that grow at their end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "pygrade/function_ref.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/pygrade.h"
#include "pygrade/ranker.hpp"
#include "pygrade/store.hpp"

struct pygrade_policy {
  const std::shared_ptr<const pygrade::Policy> policy;
};

namespace pygrade::inline v0_2::c_abi {
constexpr std::size_t largest_struct = 4096;  // bytes, beyond which a size is none

// The caller's memory for the text of an error; none if it is null or of size 0.
struct ErrorBuffer {
  char* text = nullptr;
  std::size_t size = 0;
};

// That of a struct that a call reads, if the struct is long enough to have one.
template <class Struct>
ErrorBuffer error_of(const Struct* given) {
  if (given == nullptr || given->size < offsetof(Struct, error_size) + sizeof(std::size_t) ||
      given->size > largest_struct)
    return {};
  return {given->error, given->error_size};
}

// Sets what pygrade_last_error() returns in this thread.
void clear_error() noexcept;
pygrade_status fail(pygrade_status status, const char* message, ErrorBuffer error) noexcept;

// The caller's memory is too small for a text.
struct TooSmall : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs `call`; an exception becomes a status and a message.
template <class Call>
pygrade_status guarded(ErrorBuffer error, Call&& call) noexcept {
  clear_error();
  try {
    call();
    return PYGRADE_OK;
  } catch (const ArtifactMissing& failure) {
    return fail(PYGRADE_NOT_FOUND, failure.what(), error);
  } catch (const ArtifactError& failure) {
    return fail(PYGRADE_BAD_ARTIFACT, failure.what(), error);
  } catch (const TooSmall& failure) {
    return fail(PYGRADE_BUFFER_TOO_SMALL, failure.what(), error);
  } catch (const StoreError& failure) {
    return fail(PYGRADE_STORE_FAILED, failure.what(), error);
  } catch (const std::invalid_argument& failure) {
    return fail(PYGRADE_INVALID_ARGUMENT, failure.what(), error);
  } catch (const std::bad_alloc&) {
    return fail(PYGRADE_OUT_OF_MEMORY, "out of memory", error);
  } catch (const std::length_error&) {
    return fail(PYGRADE_OUT_OF_MEMORY, "out of memory", error);
  } catch (const std::exception& failure) {
    return fail(PYGRADE_INTERNAL, failure.what(), error);
  } catch (...) {
    return fail(PYGRADE_INTERNAL, "unknown error", error);
  }
}

inline void require(bool good, const char* message) {
  if (!good) throw std::invalid_argument(message);
}

// Refuses a number that is not from `low` to `high`, by its name: "request.tasks is 4; expected 3".
template <class Number>
void require_range(const char* name, Number value, std::type_identity_t<Number> low,
                   std::type_identity_t<Number> high) {
  if (value >= low && value <= high) return;  // not of NaN
  std::string text = std::string(name) + " is " + std::to_string(value) + "; expected " + std::to_string(low);
  if (low != high) text += " to " + std::to_string(high);
  throw std::invalid_argument(text);
}

inline void require_flags(const char* name, std::uint32_t flags, std::uint32_t known) {
  if ((flags & ~known) != 0)
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(flags) + " with the unknown bits " +
                                std::to_string(flags & ~known) + "; expected bits of " + std::to_string(known));
}

// The rules of `size`. A struct grows at its end alone. first_size is where the last member ends that
// the callers of every header of this ABI have. What an older caller does not have is 0, and is not written; what a
// newer one adds must be 0.
template <class Struct>
constexpr std::size_t first_size = 0;
#define PYGRADE_STRUCT(name, last) \
  template <>                      \
  inline constexpr std::size_t first_size<name> = offsetof(name, last) + sizeof(name::last);

PYGRADE_STRUCT(pygrade_ranker_options, error_size)
PYGRADE_STRUCT(pygrade_policy_source, error_size)
PYGRADE_STRUCT(pygrade_formula, slope)
PYGRADE_STRUCT(pygrade_request, production_scores)
PYGRADE_STRUCT(pygrade_page, shuffled)
PYGRADE_STRUCT(pygrade_batch, error_size)
PYGRADE_STRUCT(pygrade_mixture, baseline)
PYGRADE_STRUCT(pygrade_log_ids, reserved)
PYGRADE_STRUCT(pygrade_counters, empty_pages)

// The caller's struct, called `name`, with the members that this library knows.
template <class Struct>
Struct read_struct(const Struct* given, const std::string& name) {
  static_assert(first_size<Struct> > 0 && first_size<Struct> <= sizeof(Struct));
  if (given == nullptr) throw std::invalid_argument(name + " is NULL");
  const std::size_t size = given->size;
  if (size < first_size<Struct> || size > largest_struct)
    throw std::invalid_argument(name + ".size is " + std::to_string(size) + "; expected its sizeof, at least " +
                                std::to_string(first_size<Struct>) + ", here " + std::to_string(sizeof(Struct)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i)
    if (bytes[i] != 0)
      throw std::invalid_argument(name + " has a member at byte " + std::to_string(i) + " of " + std::to_string(size) +
                                  ", from a newer header; this library knows " + std::to_string(sizeof(Struct)) +
                                  " bytes and needs 0 in the others");
  Struct known{};
  std::memcpy(&known, given, std::min(size, sizeof known));
  return known;
}

template <class Struct>
void write_struct(const Struct& known, Struct* given) {
  std::memcpy(given, &known, std::min(given->size, sizeof known));
}

// Element `index` of a caller's array, whose structs may be shorter or longer than they are here.
template <class Struct>
Struct* element(Struct* first, std::size_t index, const std::string& name) {
  using Byte = std::conditional_t<std::is_const_v<Struct>, const std::byte, std::byte>;
  const std::size_t size = first->size;
  if (size % alignof(Struct) != 0)
    throw std::invalid_argument(name + ".size is " + std::to_string(size) + "; expected a multiple of " +
                                std::to_string(alignof(Struct)));
  auto* at = reinterpret_cast<Struct*>(reinterpret_cast<Byte*>(first) + index * size);
  require_range((name + ".size").c_str(), at->size, size, size);
  return at;
}

// `count` elements; none for a null pointer.
template <class T>
std::span<T> optional_span(T* data, std::size_t count) {
  return {data, data == nullptr ? 0 : count};
}

// The rules of a caller's struct; the ranker checks what goes together.
template <class Given>
PageRules rules_of(const Given& given, std::size_t candidates) {
  if (given.groups != nullptr) require_range("group_columns", given.group_columns, 1, 64);
  const struct {
    std::size_t candidates, group_columns, one = 1;
  } sizes{candidates, given.group_columns};
  return {
#define PYGRADE_RULE(type, name, rows, width, json, text) optional_span(given.name, sizes.rows* sizes.width),
#include "pygrade/request.def"
  };
}

inline void write_effects(std::span<const PageEffect> effects, pygrade_page_effect* to) {
  for (const PageEffect& item : effects) *to++ = {item.effect, item.above, item.sorted_place};
}

// A text of a caller, who may say that it is longer than any is.
constexpr std::size_t longest_text = std::numeric_limits<std::int32_t>::max();

inline void write_text(const std::string& text, char* to, std::size_t capacity, std::size_t* length) {
  *length = text.size();
  if (text.size() > capacity)
    throw TooSmall("the text has " + std::to_string(text.size()) + " bytes; capacity is " + std::to_string(capacity));
  text.copy(to, text.size());
}

// Calls `log` with the checked arguments of a function that logs a request and its page.
using LogCall = FunctionRef<void(const Policy&, const Request&, const PageBuffer&, const Page&, const LogIds&)>;
void with_page(const pygrade_ranker* ranker, const pygrade_request* request, const pygrade_page* page,
               const pygrade_log_ids* ids, LogCall log);
}  // namespace pygrade::inline v0_2::c_abi
