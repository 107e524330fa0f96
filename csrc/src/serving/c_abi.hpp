// Parts that all functions of the C ABI share: errors as statuses with a text, and structs that grow at their end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "pygrade/function_ref.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/pygrade.h"
#include "pygrade/ranker.hpp"
#include "pygrade/store.hpp"

struct pygrade_policy {
  const std::shared_ptr<const pygrade::Policy> policy;
};

namespace pygrade::inline v0_2::c_abi {

// The caller's memory for the text of an error; none if it is null or of size 0.
struct ErrorBuffer {
  char* text = nullptr;
  std::size_t size = 0;
};

// That of a struct that a call reads, if the struct is long enough to have one.
template <class Struct>
ErrorBuffer error_of(const Struct* given) {
  if (given == nullptr || given->size < offsetof(Struct, error_size) + sizeof(std::size_t) || given->size > 4096)
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

// The caller's struct with the members that this library knows; those that a newer caller adds must be 0.
template <class Struct>
Struct read_struct(const Struct* given, const char* null_message) {
  require(given != nullptr, null_message);
  const std::size_t size = given->size;
  require(size >= sizeof(Struct) && size <= 4096, "size is not the sizeof of the struct");
  Struct known{};
  std::memcpy(&known, given, sizeof known);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof known; i < size; ++i)
    require(bytes[i] == 0, "a struct of a newer header has members set that this library does not know");
  return known;
}

template <class Struct>
void write_struct(const Struct& known, Struct* given) {
  std::memcpy(given, &known, sizeof known);
}

// Element `index` of a caller's array, whose structs may be longer than they are here.
template <class Struct>
Struct* element(Struct* first, std::size_t index) {
  using Byte = std::conditional_t<std::is_const_v<Struct>, const std::byte, std::byte>;
  require(first->size % alignof(Struct) == 0, "size is not the sizeof of the struct");
  auto* at = reinterpret_cast<Struct*>(reinterpret_cast<Byte*>(first) + index * first->size);
  require(at->size == first->size, "size is not that of the first one");
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
  require(given.groups == nullptr || (given.group_columns >= 1 && given.group_columns <= 64),
          "group_columns must be 1 … 64");
  const struct {
    std::size_t candidates, group_columns, one = 1;
  } sizes{candidates, given.group_columns};
  return {
#define PYGRADE_RULE(type, name, rows, width, json, text) optional_span(given.name, sizes.rows* sizes.width),
#include "pygrade/request.def"
  };
}

// A text of a caller, who may say that it is longer than any is.
constexpr std::size_t longest_text = std::numeric_limits<std::int32_t>::max();

inline void write_text(const std::string& text, char* to, std::size_t capacity, std::size_t* length) {
  *length = text.size();
  if (text.size() > capacity) throw TooSmall("the text is longer than capacity");
  text.copy(to, text.size());
}

// Calls `log` with the checked arguments of a function that logs a request and its page.
using LogCall = FunctionRef<void(const Policy&, const Request&, const PageBuffer&, const Page&, const LogIds&)>;
void with_page(const pygrade_ranker* ranker, const pygrade_request* request, const pygrade_page* page,
               const pygrade_log_ids* ids, LogCall log);

}  // namespace pygrade::inline v0_2::c_abi
